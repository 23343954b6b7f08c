#!/usr/bin/env bash
# Makes a Debian package of what `make install` installs, with Debian's own tools.
#
#   packaging/deb/build.sh [BUILT] [VERSION] [DIRECTORY]
#
# BUILT is where the built programs are (target/release), VERSION the package's (that of the programs), DIRECTORY where it
# goes (target/debian). Prints the package's path. Needs dpkg-deb and make; with dpkg-shlibdeps (dpkg-dev) it says which
# versions of libraries the programs need.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
built=${1:-target/release}
version=${2:-$("$built/pipebus" --version | cut -d' ' -f2)}
directory=${3:-target/debian}
architecture=$(dpkg --print-architecture)

# Removes whole directories that it has made, so it makes one of its own.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree

make --silent install built="$built" written="$work/written" DESTDIR="$tree" prefix=/usr \
    zshcompletiondir=/usr/share/zsh/vendor-completions >&2
strip --strip-unneeded "$tree"/usr/bin/*
gzip -9n "$tree"/usr/share/man/man?/*
mv "$tree/usr/share/doc/pipebus/CHANGELOG.md" "$tree/usr/share/doc/pipebus/changelog"
gzip -9n "$tree/usr/share/doc/pipebus/changelog"
install -m 644 packaging/deb/copyright "$tree/usr/share/doc/pipebus/copyright"

depends=libc6
if command -v dpkg-shlibdeps >/dev/null; then
    mkdir "$work/debian"
    printf 'Source: pipebus\n\nPackage: pipebus\nArchitecture: any\n' >"$work/debian/control"
    depends=$(cd "$work" && dpkg-shlibdeps -O tree/usr/bin/* 2>/dev/null | sed -n 's/^shlibs:Depends=//p')
fi

install -d "$tree/DEBIAN"
sed "s/@VERSION@/$version/; s/@ARCHITECTURE@/$architecture/; s/@DEPENDS@/$depends/; s/@SIZE@/$(du -sk "$tree" | cut -f1)/" \
    packaging/deb/control >"$tree/DEBIAN/control"
echo /etc/pipebus/system.toml >"$tree/DEBIAN/conffiles"
install -m 755 packaging/deb/postinst packaging/deb/prerm packaging/deb/postrm "$tree/DEBIAN"
(cd "$tree" && find usr -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)

mkdir -p "$directory"
package=$directory/pipebus_${version}_$architecture.deb
dpkg-deb --root-owner-group --build "$tree" "$package" >&2
echo "$package"
