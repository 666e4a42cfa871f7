package gateway

import (
	"fmt"
	"time"

	"postern/appliance/config"
	"postern/filter/directory"
	"postern/filter/openpgp"
	"postern/filter/smime"
	"postern/filter/web"
)

// Finder reads which directories are asked; nil where none is. Its list is the
// whole of them.
func Finder(c *config.Filterd) (*directory.Finder, error) {
	if len(c.Find.Sources) == 0 {
		return nil, nil
	}
	all := directory.Config{Budget: time.Duration(c.Find.Wait), Keep: time.Duration(c.Find.Keep), Again: time.Duration(c.Find.Again), Retry: time.Duration(c.Find.Retry)}
	names := Names(c)
	http := web.Client(names, nil, c.Find.Private, nil)
	if c.Find.CAFile != "" {
		roots, err := pool("find.ca-file", c.Find.CAFile)
		if err != nil {
			return nil, err
		}
		http = web.Client(names, roots, c.Find.Private, nil)
	}
	for _, s := range c.Find.Sources {
		var d directory.Directory
		switch s.Kind {
		case "wkd":
			d = &directory.WKD{Names: names, HTTP: http, Read: openpgp.Read}
		case "openpgpkey":
			d = &directory.OpenPGPKey{Names: names, Read: openpgp.Read}
		case "smimea":
			d = &directory.SMIMEA{Names: names, Read: smime.Read}
		case "vks":
			d = &directory.VKS{URL: s.URL, HTTP: http, Read: openpgp.Read}
		case "hkps":
			d = &directory.HKPS{URL: s.URL, HTTP: http, Read: openpgp.Read}
		default:
			return nil, fmt.Errorf("find: unknown kind %q", s.Kind)
		}
		all.Sources = append(all.Sources, directory.Source{Directory: d, Trust: directory.Trust(s.Trust)})
	}
	return directory.New(all), nil
}
