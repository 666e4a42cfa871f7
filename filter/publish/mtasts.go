package publish

import (
	"net/http"
	"strconv"
)

// PolicyPath is where the MTA-STS policy of a domain stands, on its host mta-sts
// (RFC 8461 §3.3).
const PolicyPath = "/.well-known/mta-sts.txt"

// Policy serves the text of a policy; nil where there is none.
func Policy(w http.ResponseWriter, r *http.Request, text []byte) {
	if text == nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	if r.Method != http.MethodHead {
		w.Write(text)
	}
}
