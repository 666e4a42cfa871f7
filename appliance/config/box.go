package config

import "path/filepath"

// Box gives the configurations of a whole box that lives in dir: for trying
// it out, and for tests. Listeners, next hops, domains and the module are left
// to the caller; Print writes the files.
func Box(dir string) (*Filterd, *Keyd) {
	in := func(name string) string { return filepath.Join(dir, name) }
	f := &Filterd{State: in("filterd"), Key: Key{Socket: in("use.sock"), Keep: in("keep.sock")}}
	k := &Keyd{State: in("keyd"), PINFile: in("pin")}
	k.Socket.Use.Path, k.Socket.Keep.Path = f.Key.Socket, f.Key.Keep
	return f, k
}
