// SPDX-License-Identifier: Apache-2.0

package registrytest

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// tokens are the bearer tokens that are worth something.
type tokens struct {
	ttl time.Duration
	mu  sync.Mutex // guards until
	// until is each token's last moment; the zero time means no such moment.
	until map[string]time.Time
}

func newTokens(ttl time.Duration) *tokens {
	return &tokens{ttl: ttl, until: make(map[string]time.Time)}
}

func (t *tokens) issue() string {
	tok := rand.Text()
	var end time.Time
	if t.ttl > 0 {
		end = time.Now().Add(t.ttl)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.until[tok] = end
	return tok
}

func (t *tokens) valid(tok string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	end, ok := t.until[tok]
	return ok && (end.IsZero() || time.Now().Before(end))
}

func (t *tokens) expire() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.until)
}

// allow checks the request's credentials, and challenges it without them.
func (s *Server) allow(w http.ResponseWriter, r *Request) bool {
	var challenge string
	switch s.opts.Auth {
	case AuthNone:
		return true
	case AuthBasic:
		if s.password(r.Request) {
			return true
		}
		challenge = `Basic realm="registrytest"`
	case AuthBearer:
		tok, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if ok && s.tokens.valid(tok) {
			return true
		}
		challenge = fmt.Sprintf(`Bearer realm="%s/token",service="registrytest"`, s.URL())
		if r.Repository != "" {
			challenge += fmt.Sprintf(`,scope="repository:%s:pull,push"`, r.Repository)
		}
	}
	w.Header().Set("Www-Authenticate", challenge)
	fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	return false
}

func (s *Server) password(r *http.Request) bool {
	user, pass, ok := r.BasicAuth()
	return ok && s.opts.Username+s.opts.Password != "" &&
		subtle.ConstantTimeCompare([]byte(user+"\x00"+pass), []byte(s.opts.Username+"\x00"+s.opts.Password)) == 1
}

// token is the token service: by password, or by the refresh token that is the password.
func (s *Server) token(w http.ResponseWriter, r *Request) {
	free := s.opts.Username == "" && s.opts.Password == ""
	refresh := r.Method == http.MethodPost && r.FormValue("refresh_token") == s.opts.Password
	if !free && !refresh && !s.password(r.Request) {
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "wrong user or password")
		return
	}
	tok := s.tokens.issue()
	w.Header().Set("Content-Type", "application/json")
	writeJSON(w, map[string]string{"token": tok, "access_token": tok})
}

// fail answers with an error of the distribution specification 1.1, "Error Codes".
func fail(w http.ResponseWriter, status int, code, message string) {
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	writeJSON(w, map[string][]entry{"errors": {{code, message}}})
}

func writeJSON(w http.ResponseWriter, v any) {
	_ = json.NewEncoder(w).Encode(v) // a client that left is its own affair
}
