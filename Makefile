# Builds pipebus and installs all of it; docs/install.md tells the rest.
#
#   make                                         the programs, their manual pages and completions
#   make install DESTDIR=/tmp/x prefix=/usr      for packagers; as root and without DESTDIR, for this machine
#   make uninstall                               all but the configuration
#   make deb                                     target/deb/pipebus_VERSION_ARCHITECTURE.deb
#
# After `cargo fetch --locked` nothing needs a network. Every directory below can be set.

PREFIX ?= /usr/local
prefix ?= $(PREFIX)
bindir ?= $(prefix)/bin
libdir ?= $(prefix)/lib
datadir ?= $(prefix)/share
sysconfdir ?= /etc
unitdir ?= $(libdir)/systemd/system
userunitdir ?= $(libdir)/systemd/user
sysusersdir ?= $(libdir)/sysusers.d
tmpfilesdir ?= $(libdir)/tmpfiles.d
mandir ?= $(datadir)/man
docdir ?= $(datadir)/doc/pipebus
bashcompletionsdir ?= $(datadir)/bash-completion/completions
zshcompletionsdir ?= $(datadir)/zsh/site-functions
fishcompletionsdir ?= $(datadir)/fish/vendor_completions.d
dissectordir ?= $(datadir)/pipebus/wireshark

CARGO ?= cargo
INSTALL ?= install
# A profile of cargo; its programs are in a folder of that name, but for dev.
PROFILE ?= release
CARGO_TARGET_DIR ?= target

programs := $(CARGO_TARGET_DIR)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
# What the programs say of themselves.
said := $(CARGO_TARGET_DIR)/said
docs := README.md CHANGELOG.md SECURITY.md ARCHITECTURE.md PERFORMANCE.md proto/PROTOCOL.md LICENSE-MIT LICENSE-APACHE
dissector := $(wildcard contrib/wireshark/pipebus.lua)

# In the units as they are, for a package; they are made to fit where it is not.
adapted = sed -e 's|/usr/bin/pipebusd|$(bindir)/pipebusd|' -e 's|/etc/pipebus/|$(sysconfdir)/pipebus/|'

.PHONY: all programs install install-programs install-units install-config install-said install-docs uninstall deb

all: programs
	$(MAKE) --no-print-directory $(said)/made

programs:
	$(CARGO) build --locked --profile $(PROFILE) -p pipebus -p pipebusd

# What has been built is installed as it is, so that whoever installs, root mostly, needs no cargo.
$(programs)/pipebus $(programs)/pipebusd:
	$(MAKE) --no-print-directory programs

$(said)/made: $(programs)/pipebus $(programs)/pipebusd
	rm -rf $(said)
	mkdir -p $(said)/man
	$(programs)/pipebus man $(said)/man
	$(programs)/pipebusd --man $(said)/man
	set -e; for shell in bash zsh fish; do \
		$(programs)/pipebus completions $$shell > $(said)/pipebus.$$shell; \
		$(programs)/pipebusd --completions $$shell > $(said)/pipebusd.$$shell; \
	done
	touch $@

install: install-programs install-units install-config install-said install-docs

install-programs: $(programs)/pipebus $(programs)/pipebusd
	$(INSTALL) -d $(DESTDIR)$(bindir)
	$(INSTALL) -m 755 $^ $(DESTDIR)$(bindir)

install-units:
	$(INSTALL) -d $(DESTDIR)$(unitdir) $(DESTDIR)$(userunitdir)
	set -e; for unit in pipebusd.service pipebusd.socket; do \
		$(adapted) systemd/$$unit > $(DESTDIR)$(unitdir)/$$unit; \
		$(adapted) systemd/user/$$unit > $(DESTDIR)$(userunitdir)/$$unit; \
		chmod 644 $(DESTDIR)$(unitdir)/$$unit $(DESTDIR)$(userunitdir)/$$unit; \
	done
	$(INSTALL) -D -m 644 systemd/pipebus.sysusers.conf $(DESTDIR)$(sysusersdir)/pipebus.conf
	$(INSTALL) -D -m 644 systemd/pipebus.tmpfiles.conf $(DESTDIR)$(tmpfilesdir)/pipebus.conf

# What an administrator has written stays.
install-config:
	test -e $(DESTDIR)$(sysconfdir)/pipebus/system.toml || \
		$(INSTALL) -D -m 644 config/system.toml $(DESTDIR)$(sysconfdir)/pipebus/system.toml

install-said: $(said)/made
	$(INSTALL) -d $(DESTDIR)$(mandir)/man1 $(DESTDIR)$(mandir)/man5 $(DESTDIR)$(mandir)/man8
	$(INSTALL) -m 644 $(said)/man/*.1 $(DESTDIR)$(mandir)/man1
	$(INSTALL) -m 644 $(said)/man/*.5 $(DESTDIR)$(mandir)/man5
	$(INSTALL) -m 644 $(said)/man/*.8 $(DESTDIR)$(mandir)/man8
	set -e; for program in pipebus pipebusd; do \
		$(INSTALL) -D -m 644 $(said)/$$program.bash $(DESTDIR)$(bashcompletionsdir)/$$program; \
		$(INSTALL) -D -m 644 $(said)/$$program.zsh $(DESTDIR)$(zshcompletionsdir)/_$$program; \
		$(INSTALL) -D -m 644 $(said)/$$program.fish $(DESTDIR)$(fishcompletionsdir)/$$program.fish; \
	done

install-docs:
	$(INSTALL) -d $(DESTDIR)$(docdir)
	$(INSTALL) -m 644 $(docs) $(DESTDIR)$(docdir)
	$(INSTALL) -m 644 systemd/README.md $(DESTDIR)$(docdir)/systemd.md
	$(INSTALL) -m 644 docs/install.md $(DESTDIR)$(docdir)/install.md
	$(if $(dissector),$(INSTALL) -D -m 644 $(dissector) $(DESTDIR)$(dissectordir)/pipebus.lua)

uninstall:
	rm -f $(addprefix $(DESTDIR)$(bindir)/,pipebus pipebusd)
	rm -f $(foreach directory,$(unitdir) $(userunitdir),$(addprefix $(DESTDIR)$(directory)/,pipebusd.service pipebusd.socket))
	rm -f $(DESTDIR)$(sysusersdir)/pipebus.conf $(DESTDIR)$(tmpfilesdir)/pipebus.conf
	rm -f $(DESTDIR)$(mandir)/man1/pipebus.1 $(DESTDIR)$(mandir)/man1/pipebus-*.1
	rm -f $(DESTDIR)$(mandir)/man5/pipebus.toml.5 $(DESTDIR)$(mandir)/man8/pipebusd.8
	rm -f $(foreach program,pipebus pipebusd,$(DESTDIR)$(bashcompletionsdir)/$(program) \
		$(DESTDIR)$(zshcompletionsdir)/_$(program) $(DESTDIR)$(fishcompletionsdir)/$(program).fish)
	rm -f $(DESTDIR)$(dissectordir)/pipebus.lua
	rm -rf $(DESTDIR)$(docdir)

# The package is what `make install` installs, and what packaging/deb/ says about it: cargo-deb puts it together.
stage := target/deb/root
DEB_VERSION ?=
DEB_OPTIONS ?=

deb: all
	rm -rf $(stage)
	$(MAKE) install DESTDIR=$(stage) prefix=/usr sysconfdir=/etc zshcompletionsdir=/usr/share/zsh/vendor-completions
	strip --strip-unneeded $(stage)/usr/bin/*
	rm $(stage)/usr/share/doc/pipebus/LICENSE-*
	gzip -9n < CHANGELOG.md > $(stage)/usr/share/doc/pipebus/changelog.gz
	rm $(stage)/usr/share/doc/pipebus/CHANGELOG.md
	$(CARGO) deb --quiet --locked --no-build --no-strip -p pipebus --output target/deb/ \
		$(if $(DEB_VERSION),--deb-version $(DEB_VERSION)) $(DEB_OPTIONS)
