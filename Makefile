# Builds and installs pipebus as packagers expect. For work on pipebus itself cargo is enough.
#
#   make                                  the programs, optimised
#   make install prefix=/usr DESTDIR=...  all files; run as root only without DESTDIR
#   make uninstall prefix=/usr            removes them again, but not what was configured
#   make deb                              a Debian package, in target/debian
#   make check                            all tests
#
# What is installed was built before: `make install` needs no compiler and no network.

prefix ?= /usr/local
sysconfdir ?= /etc
bindir ?= $(prefix)/bin
datadir ?= $(prefix)/share
mandir ?= $(datadir)/man
docdir ?= $(datadir)/doc/pipebus
unitdir ?= $(prefix)/lib/systemd/system
userunitdir ?= $(prefix)/lib/systemd/user
sysusersdir ?= $(prefix)/lib/sysusers.d
tmpfilesdir ?= $(prefix)/lib/tmpfiles.d
bashcompletiondir ?= $(datadir)/bash-completion/completions
zshcompletiondir ?= $(datadir)/zsh/site-functions
fishcompletiondir ?= $(datadir)/fish/vendor_completions.d
wiresharkdir ?= $(datadir)/pipebus/wireshark

CARGO ?= cargo
INSTALL ?= install
# Where the built programs are.
built ?= target/release

programs = pipebus pipebusd
units = pipebusd.service pipebusd.socket
documents = README.md CHANGELOG.md SECURITY.md PERFORMANCE.md LICENSE-MIT LICENSE-APACHE proto/PROTOCOL.md \
    $(wildcard docs/*.md) config/pipebus.toml
# What the programs write themselves: manual pages and completions.
written = target/install

all:
	$(CARGO) build --release --locked --workspace --bins

check:
	bash tests/run.sh

$(programs:%=$(built)/%):
	@echo "$@ is not there; run make first, or say where the programs are with built=" >&2; exit 1

$(written)/stamp: $(programs:%=$(built)/%)
	rm -rf $(written)
	mkdir -p $(written)/man $(written)/bash $(written)/zsh $(written)/fish
	$(built)/pipebus man $(written)/man
	$(built)/pipebusd --man $(written)/man
	$(built)/pipebus completions bash > $(written)/bash/pipebus
	$(built)/pipebus completions zsh > $(written)/zsh/_pipebus
	$(built)/pipebus completions fish > $(written)/fish/pipebus.fish
	$(built)/pipebusd --completions bash > $(written)/bash/pipebusd
	$(built)/pipebusd --completions zsh > $(written)/zsh/_pipebusd
	$(built)/pipebusd --completions fish > $(written)/fish/pipebusd.fish
	touch $@

install: $(written)/stamp
	$(INSTALL) -d $(DESTDIR)$(bindir) $(DESTDIR)$(docdir)
	$(INSTALL) -m 755 $(programs:%=$(built)/%) $(DESTDIR)$(bindir)
	$(INSTALL) -m 644 $(documents) $(DESTDIR)$(docdir)
	$(INSTALL) -m 644 systemd/README.md $(DESTDIR)$(docdir)/systemd.md
	$(INSTALL) -d $(DESTDIR)$(bashcompletiondir) $(DESTDIR)$(zshcompletiondir) $(DESTDIR)$(fishcompletiondir)
	$(INSTALL) -m 644 $(written)/bash/* $(DESTDIR)$(bashcompletiondir)
	$(INSTALL) -m 644 $(written)/zsh/* $(DESTDIR)$(zshcompletiondir)
	$(INSTALL) -m 644 $(written)/fish/* $(DESTDIR)$(fishcompletiondir)
	for section in 1 5 8; do \
	    $(INSTALL) -d $(DESTDIR)$(mandir)/man$$section && \
	    $(INSTALL) -m 644 $(written)/man/*.$$section $(DESTDIR)$(mandir)/man$$section || exit 1; \
	done
	$(INSTALL) -d $(DESTDIR)$(unitdir) $(DESTDIR)$(userunitdir)
	for unit in $(units); do \
	    sed 's|/usr/bin/pipebusd|$(bindir)/pipebusd|; s|/etc/pipebus|$(sysconfdir)/pipebus|' systemd/$$unit \
	        > $(DESTDIR)$(unitdir)/$$unit && \
	    sed 's|/usr/bin/pipebusd|$(bindir)/pipebusd|' systemd/user/$$unit > $(DESTDIR)$(userunitdir)/$$unit && \
	    chmod 644 $(DESTDIR)$(unitdir)/$$unit $(DESTDIR)$(userunitdir)/$$unit || exit 1; \
	done
	$(INSTALL) -D -m 644 systemd/pipebus.sysusers.conf $(DESTDIR)$(sysusersdir)/pipebus.conf
	$(INSTALL) -D -m 644 systemd/pipebus.tmpfiles.conf $(DESTDIR)$(tmpfilesdir)/pipebus.conf
	$(INSTALL) -D -m 644 contrib/wireshark/pipebus.lua $(DESTDIR)$(wiresharkdir)/pipebus.lua
	$(INSTALL) -m 644 contrib/wireshark/README.md $(DESTDIR)$(wiresharkdir)
	# What somebody has configured stays.
	test -e $(DESTDIR)$(sysconfdir)/pipebus/system.toml || \
	    $(INSTALL) -D -m 644 config/system.toml $(DESTDIR)$(sysconfdir)/pipebus/system.toml

uninstall:
	rm -f $(programs:%=$(DESTDIR)$(bindir)/%) $(units:%=$(DESTDIR)$(unitdir)/%) $(units:%=$(DESTDIR)$(userunitdir)/%)
	rm -f $(DESTDIR)$(sysusersdir)/pipebus.conf $(DESTDIR)$(tmpfilesdir)/pipebus.conf
	rm -f $(DESTDIR)$(mandir)/man1/pipebus.1 $(DESTDIR)$(mandir)/man1/pipebus-*.1
	rm -f $(DESTDIR)$(mandir)/man5/pipebus.toml.5 $(DESTDIR)$(mandir)/man8/pipebusd.8
	rm -f $(programs:%=$(DESTDIR)$(bashcompletiondir)/%) $(programs:%=$(DESTDIR)$(zshcompletiondir)/_%)
	rm -f $(programs:%=$(DESTDIR)$(fishcompletiondir)/%.fish)
	rm -rf $(DESTDIR)$(docdir) $(DESTDIR)$(datadir)/pipebus

deb:
	packaging/deb/build.sh $(built)

.PHONY: all check install uninstall deb
