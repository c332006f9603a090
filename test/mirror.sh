# What scripts have from Debian's mirrors without installing it. To be sourced.

# The Debian mirror of this machine's own apt sources, in either of the two formats; nothing if it has none.
debian_mirror() {
	{
		cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | sed -n 's/^deb  *\(\[[^]]*\]\)\{0,1\} *\([^ ]*\) .*/\2/p'
		cat /etc/apt/sources.list.d/*.sources 2>/dev/null | sed -n 's/^URIs: *\([^ ]*\).*/\1/p'
	} | grep -E '/debian/?$' | head -n 1
}

# Unpacks packages of another suite into DIR/root, by an apt of its own, so that the machine's sources stay as they are.
debian_unpack() { # SUITE DIR PACKAGE...
	local suite=$1 dir=$2 apt=$2/apt package
	shift 2
	mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$apt/parts" "$apt/packages"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(debian_mirror) $suite main" >"$apt/sources.list"
	: >"$apt/status"
	# An unpacked directory below the cache cannot be read by apt's own user: download as root.
	local options=(-o "Dir::State=$apt/state" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache"
		-o "Dir::Etc::sourcelist=$apt/sources.list" -o "Dir::Etc::sourceparts=$apt/parts" -o APT::Sandbox::User=root)
	apt-get -q "${options[@]}" update
	(cd "$apt/packages" && apt-get -q "${options[@]}" download "$@")
	for package in "$apt"/packages/*.deb; do
		dpkg-deb -x "$package" "$dir/root"
	done
	rm -rf "$apt"
}
