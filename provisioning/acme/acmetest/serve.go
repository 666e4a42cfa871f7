package acmetest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// problem is a refusal (RFC 8555 §6.7).
type problem struct {
	Type   string `json:"type"`
	Detail string `json:"detail"`
	Status int    `json:"status"`
	after  int    // seconds
}

func (p *problem) Error() string { return p.Type + ": " + p.Detail }

func refused(status int, kind, format string, args ...any) *problem {
	return &problem{Type: "urn:ietf:params:acme:error:" + kind, Detail: fmt.Sprintf(format, args...), Status: status}
}

// request is a JWS that holds.
type request struct {
	payload []byte // nil: POST-as-GET
	key     *jose.JSONWebKey
	account *account // nil: the key stands in the request
}

// answerer answers a request; the lock is held.
type answerer func(r *request, id int) (status int, header map[string]string, body any, err error)

func (s *Server) handle(mux *http.ServeMux) {
	mux.HandleFunc("GET /directory", func(w http.ResponseWriter, r *http.Request) {
		meta := map[string]any{"externalAccountRequired": s.Binding != ""}
		if s.Terms != "" {
			meta["termsOfService"] = s.Terms
		}
		s.reply(w, http.StatusOK, nil, map[string]any{"newNonce": s.http.URL + "/nonce", "newAccount": s.http.URL + "/new-account", "newOrder": s.http.URL + "/new-order",
			"revokeCert": s.http.URL + "/revoke", "keyChange": s.http.URL + "/key-change", "meta": meta})
	})
	mux.HandleFunc("/nonce", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		w.Header().Set("Replay-Nonce", s.nonce())
		w.Header().Set("Cache-Control", "no-store")
	})
	for path, f := range map[string]answerer{"new-account": s.newAccount, "new-order": s.newOrder, "order/{id}": s.order, "authorization/{id}": s.authorization,
		"challenge/{id}": s.challenge, "finalize/{id}": s.finalize, "certificate/{id}": s.certificate} {
		mux.HandleFunc("POST /"+path, func(w http.ResponseWriter, r *http.Request) { s.post(w, r, f) })
	}
}

func (s *Server) nonce() string {
	n := secret(16)
	s.nonces[n] = true
	return n
}

func (s *Server) reply(w http.ResponseWriter, status int, header map[string]string, body any) {
	for k, v := range header {
		w.Header().Set(k, v)
	}
	if text, ok := body.(string); ok {
		w.WriteHeader(status)
		io.WriteString(w, text)
		return
	}
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

func (s *Server) post(w http.ResponseWriter, r *http.Request, f answerer) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Replay-Nonce", s.nonce())
	var q *request
	if err == nil {
		q, err = s.verify(r, body)
	}
	var status int
	var header map[string]string
	var out any
	if err == nil {
		id, _ := strconv.Atoi(r.PathValue("id"))
		if r.PathValue("id") != "" && (id < 0 || id >= len(s.orders) || s.orders[id].account != q.account) {
			err = refused(http.StatusNotFound, "malformed", "nothing there")
		} else {
			status, header, out, err = f(q, id)
		}
	}
	if err != nil {
		p, ok := errors.AsType[*problem](err)
		if !ok {
			p = refused(http.StatusInternalServerError, "serverInternal", "%v", err)
		}
		s.complain("%s: %v", r.URL.Path, p)
		header = map[string]string{"Content-Type": "application/problem+json"}
		if p.after > 0 {
			header["Retry-After"] = strconv.Itoa(p.after)
		}
		s.reply(w, p.Status, header, p)
		return
	}
	s.reply(w, status, header, out)
}

// verify checks a request (RFC 8555 §6.2 to §6.5).
func (s *Server) verify(r *http.Request, body []byte) (*request, error) {
	malformed := func(format string, args ...any) error {
		return refused(http.StatusBadRequest, "malformed", format, args...)
	}
	if t := r.Header.Get("Content-Type"); t != "application/jose+json" {
		return nil, refused(http.StatusUnsupportedMediaType, "malformed", "content type %q", t)
	}
	sig, err := jose.ParseSignedJSON(string(body), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, malformed("JWS: %v", err)
	}
	if len(sig.Signatures) != 1 || len(sig.Signatures[0].Unprotected.ExtraHeaders) > 0 || sig.Signatures[0].Unprotected.KeyID != "" {
		return nil, malformed("JWS: want one signature, and all of it protected")
	}
	h := sig.Signatures[0].Protected
	if !s.nonces[h.Nonce] {
		return nil, refused(http.StatusBadRequest, "badNonce", "nonce %q", h.Nonce)
	}
	delete(s.nonces, h.Nonce)
	if u := h.ExtraHeaders["url"]; u != s.http.URL+r.URL.Path {
		return nil, refused(http.StatusUnauthorized, "unauthorized", "signed for %v", u)
	}
	q := &request{}
	switch {
	case (h.JSONWebKey == nil) == (h.KeyID == ""):
		return nil, malformed("want one of jwk and kid")
	case h.JSONWebKey != nil:
		if r.URL.Path != "/new-account" {
			return nil, malformed("jwk where a kid has to be")
		}
		q.key = h.JSONWebKey
	default:
		if q.account = s.accounts[h.KeyID]; q.account == nil {
			return nil, refused(http.StatusBadRequest, "accountDoesNotExist", "no account %q", h.KeyID)
		}
		q.key = q.account.key
	}
	if _, ok := q.key.Key.(*ecdsa.PublicKey); !ok || !q.key.Valid() {
		return nil, refused(http.StatusBadRequest, "badPublicKey", "want P-256")
	}
	payload, err := sig.Verify(q.key)
	if err != nil {
		return nil, refused(http.StatusUnauthorized, "unauthorized", "signature: %v", err)
	}
	if len(payload) > 0 {
		q.payload = payload
	}
	return q, nil
}

func thumbprint(k *jose.JSONWebKey) string {
	sum, err := k.Thumbprint(crypto.SHA256)
	if err != nil {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(sum)
}

func (s *Server) newAccount(q *request, _ int) (int, map[string]string, any, error) {
	var ask struct {
		Contact                []string        `json:"contact"`
		TermsOfServiceAgreed   bool            `json:"termsOfServiceAgreed"`
		OnlyReturnExisting     bool            `json:"onlyReturnExisting"`
		ExternalAccountBinding json.RawMessage `json:"externalAccountBinding"`
	}
	if err := json.Unmarshal(q.payload, &ask); err != nil || q.account != nil {
		return 0, nil, nil, refused(http.StatusBadRequest, "malformed", "account: %v", err)
	}
	u := s.http.URL + "/account/" + thumbprint(q.key)
	valid := map[string]any{"status": "valid", "contact": ask.Contact, "orders": u + "/orders"}
	header := map[string]string{"Location": u}
	switch {
	case s.accounts[u] != nil:
		return http.StatusOK, header, valid, nil
	case ask.OnlyReturnExisting:
		return 0, nil, nil, refused(http.StatusBadRequest, "accountDoesNotExist", "no account with that key")
	case s.Terms != "" && !ask.TermsOfServiceAgreed:
		return 0, nil, nil, refused(http.StatusForbidden, "userActionRequired", "terms at %s", s.Terms)
	}
	if s.Binding != "" {
		if err := s.bound(ask.ExternalAccountBinding, q.key); err != nil {
			return 0, nil, nil, err
		}
	}
	for _, c := range ask.Contact {
		if v, err := url.Parse(c); err != nil || v.Scheme != "mailto" {
			return 0, nil, nil, refused(http.StatusBadRequest, "unsupportedContact", "contact %q", c)
		}
	}
	s.accounts[u] = &account{url: u, key: q.key, mail: ask.Contact}
	return http.StatusCreated, header, valid, nil
}

// bound checks an external account binding (RFC 8555 §7.3.4).
func (s *Server) bound(text []byte, key *jose.JSONWebKey) error {
	no := func(format string, args ...any) error {
		return refused(http.StatusForbidden, "externalAccountRequired", format, args...)
	}
	sig, err := jose.ParseSignedJSON(string(text), []jose.SignatureAlgorithm{jose.HS256})
	if err != nil || len(sig.Signatures) != 1 {
		return no("binding: %v", err)
	}
	h := sig.Signatures[0].Protected
	if h.KeyID != s.Binding || h.Nonce != "" || h.ExtraHeaders["url"] != s.http.URL+"/new-account" {
		return no("binding of %q for %v", h.KeyID, h.ExtraHeaders["url"])
	}
	payload, err := sig.Verify(s.MAC)
	if err != nil {
		return no("binding: %v", err)
	}
	var named jose.JSONWebKey
	if err := named.UnmarshalJSON(payload); err != nil || thumbprint(&named) != thumbprint(key) {
		return no("binding of another key: %v", err)
	}
	return nil
}

type identifier struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

func (s *Server) newOrder(q *request, _ int) (int, map[string]string, any, error) {
	if s.busy > 0 {
		s.busy--
		p := refused(http.StatusTooManyRequests, "rateLimited", "too many orders")
		p.after = 1
		return 0, nil, nil, p
	}
	var ask struct {
		Identifiers []identifier `json:"identifiers"`
	}
	if err := json.Unmarshal(q.payload, &ask); err != nil || len(ask.Identifiers) != 1 {
		return 0, nil, nil, refused(http.StatusBadRequest, "malformed", "want one identifier: %v", err)
	}
	id := ask.Identifiers[0]
	if id.Type != "email" {
		return 0, nil, nil, refused(http.StatusBadRequest, "unsupportedIdentifier", "type %q", id.Type)
	}
	if !strings.Contains(id.Value, "@") || strings.HasSuffix(id.Value, "@denied.example") {
		return 0, nil, nil, refused(http.StatusBadRequest, "rejectedIdentifier", "address %q", id.Value)
	}
	// 20 bytes, no multiple of three: the two ways to join halves differ.
	o := &order{id: len(s.orders), account: q.account, address: id.Value, status: "pending", first: secret(20), second: secret(16), sender: "acme+" + strings.ToLower(secret(5)) + "@" + Domain}
	s.orders = append(s.orders, o)
	return http.StatusCreated, map[string]string{"Location": s.at("order", o)}, s.orderObject(o), nil
}

func (s *Server) at(what string, o *order) string {
	return fmt.Sprintf("%s/%s/%d", s.http.URL, what, o.id)
}

func (s *Server) orderObject(o *order) map[string]any {
	m := map[string]any{"status": o.status, "expires": "2099-01-01T00:00:00Z", "identifiers": []identifier{{"email", o.address}},
		"authorizations": []string{s.at("authorization", o)}, "finalize": s.at("finalize", o)}
	if o.status == "valid" {
		m["certificate"] = s.at("certificate", o)
	}
	if o.problem != nil {
		m["error"] = o.problem
	}
	return m
}

func (s *Server) order(q *request, id int) (int, map[string]string, any, error) {
	o := s.orders[id]
	if q.payload != nil {
		return 0, nil, nil, refused(http.StatusBadRequest, "malformed", "want POST-as-GET")
	}
	if o.status == "processing" { // it was told to come back, and does
		o.status = "valid"
	}
	return http.StatusOK, nil, s.orderObject(o), nil
}

func (s *Server) challengeObject(o *order) map[string]any {
	m := map[string]any{"type": "email-reply-00", "url": s.at("challenge", o), "status": "pending", "token": o.second, "from": o.sender}
	switch {
	case o.problem != nil:
		m["status"], m["error"] = "invalid", o.problem
	case o.answered && o.told:
		m["status"] = "valid"
	case o.told:
		m["status"] = "processing"
	}
	return m
}

// authorization sends the mail, when it is asked for the first time (RFC 8823
// §3). A first attempt is made before the answer: that is how early a mail can
// come.
func (s *Server) authorization(q *request, id int) (int, map[string]string, any, error) {
	o := s.orders[id]
	if q.payload != nil {
		return 0, nil, nil, refused(http.StatusBadRequest, "malformed", "want POST-as-GET")
	}
	if !o.sent {
		o.sent = true
		s.send(o)
	}
	status := "pending"
	switch {
	case o.problem != nil:
		status = "invalid"
	case o.answered && o.told:
		status = "valid"
	}
	return http.StatusOK, nil, map[string]any{"status": status, "expires": "2099-01-01T00:00:00Z", "identifier": identifier{"email", o.address}, "challenges": []any{s.challengeObject(o)}}, nil
}

func (s *Server) challenge(q *request, id int) (int, map[string]string, any, error) {
	o := s.orders[id]
	if !bytes.Equal(q.payload, []byte("{}")) {
		return 0, nil, nil, refused(http.StatusBadRequest, "malformed", "want an empty object")
	}
	o.told = true
	s.settle(o)
	return http.StatusOK, map[string]string{"Link": "<" + s.at("authorization", o) + `>;rel="up"`}, s.challengeObject(o), nil
}

// settle lets the order go on when both are there: the answer, and the client's word.
func (s *Server) settle(o *order) {
	if o.answered && o.told && o.status == "pending" {
		o.status = "ready"
	}
}
