package pages

import (
	"net/http"
	"slices"

	"postern/filter/autoconfig"
)

// Settings are the pages where mail programs ask for their servers; of gives
// what is told of one of our domains.
func Settings(domains []string, of func(domain string) autoconfig.Site) []Page {
	file := func(w http.ResponseWriter, _ *http.Request, domain string) {
		text, err := of(domain).Thunderbird()
		answer(w, text, err)
	}
	ask := func(w http.ResponseWriter, r *http.Request, _ string) {
		a, err := autoconfig.ReadAutodiscover(r.Body)
		if err != nil || !slices.Contains(domains, a.Domain) {
			http.Error(w, "no such address", http.StatusBadRequest)
			return
		}
		text, err := of(a.Domain).Autodiscover(a)
		answer(w, text, err)
	}
	get, post := []string{http.MethodGet, http.MethodHead}, []string{http.MethodPost}
	return []Page{
		{Prefix: "autoconfig.", Path: "/mail/config-v1.1.xml", Methods: get, Serve: file},
		{Prefix: "", Path: "/.well-known/autoconfig/mail/config-v1.1.xml", Methods: get, Serve: file},
		{Prefix: "autodiscover.", Path: "/autodiscover/autodiscover.xml", Methods: post, Serve: ask},
	}
}

func answer(w http.ResponseWriter, text []byte, err error) {
	if err != nil {
		http.Error(w, "internal trouble", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.Write(text)
}
