// SPDX-License-Identifier: Apache-2.0

// Package registrytest is an OCI distribution registry inside the process, for
// tests and demonstrations, whose bad days can be ordered.
//
// The two types to know are Options, which says what kind of registry it is,
// and Server, which is told what shall go wrong (Inject) and tells what was
// asked of it (Stats).
//
//	reg := registrytest.New(registrytest.Options{Redirect: true})
//	defer reg.Close()
//	reg.Inject(registrytest.Fault{Kind: registrytest.KindRange, Truncate: 100, Times: 1})
//	ref := reg.Host() + "/app:1"
//
// It speaks push (in one piece, in chunks, mounts answered with a fresh
// upload), pull, tags, referrers, ranges, redirects to a second host, basic and
// bearer authentication.
//
// # Limits
//
// Manifests are kept in memory and bounded to 4 MiB; blobs are in memory
// too unless Options.Dir is given. Only sha256 digests are accepted. It is not
// a registry for production: nothing survives Close except the files in Dir,
// which are not read again.
//
// # Decisions
//
//   - net/http directly, not httptest: that would bring test flags into the
//     programs that embed this package.
//   - Switches are named so that their zero value is the well-behaved registry.
//   - Blobs belong to repositories: a blob pushed to one is missing in another,
//     as in real registries.
//   - The second host is another port of 127.0.0.1, hence another origin.
package registrytest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

// Options says what kind of registry New starts. The zero value is a
// well-behaved one: anonymous, plain http, referrers, ranges, no redirects.
type Options struct {
	Dir  string // where blobs are kept; "" means in memory
	Addr string // host:port to listen on; "" means a free port of 127.0.0.1
	TLS  bool   // https with a certificate of its own, see Server.CertPool

	NoReferrers bool // the referrers API answers 404, as old registries do
	NoRange     bool // ranges are ignored: 200 and the whole blob

	Redirect      bool          // GETs of blobs are sent to a second host
	RedirectTTL   time.Duration // how long such a URL works; 0 means until ExpireRedirects
	ExpiredStatus int           // what the second host answers afterwards; 0 means 403

	Auth               AuthMode
	Username, Password string        // "" in both lets everyone have a token, and no one pass basic auth
	TokenTTL           time.Duration // how long a bearer token works; 0 means until ExpireTokens

	Latency   time.Duration // before each response
	Bandwidth int64         // bytes per second of each response; 0 means unlimited

	// Hook sees every request before the registry does; true means it has answered.
	// Nil means none.
	Hook func(w http.ResponseWriter, r *Request) bool
}

// AuthMode says who may come in.
type AuthMode int

// The modes of authentication.
const (
	AuthNone   AuthMode = iota // everyone
	AuthBasic                  // user and password with each request
	AuthBearer                 // a token of the registry's own token service
)

// Server is a running registry. It is safe for concurrent use.
type Server struct {
	opts   Options
	main   *listener
	second *listener // nil without Options.Redirect
	pool   *x509.CertPool
	store  *store
	tokens *tokens
	stats  stats

	mu         sync.Mutex // guards what follows
	faults     []*Fault
	generation int // of redirect URLs
}

// listener is one address of the server.
type listener struct {
	ln     net.Listener
	srv    *http.Server
	cancel context.CancelFunc
	done   sync.WaitGroup // the accept loop and the requests under way

	mu     sync.Mutex // guards closed, and done against late requests
	closed bool
}

// enter admits a request unless the listener is closed.
func (l *listener) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.done.Add(1)
	}
	return !l.closed
}

// New starts a registry. It panics if it cannot listen.
func New(opts Options) *Server {
	s := &Server{opts: opts, store: newStore(opts.Dir), tokens: newTokens(opts.TokenTTL)}
	var conf *tls.Config
	if opts.TLS {
		cert, pool := selfSigned()
		s.pool = pool
		conf = &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}}
	}
	addr := opts.Addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	s.main = listen(addr, conf, http.HandlerFunc(s.serveMain))
	if opts.Redirect {
		s.second = listen("127.0.0.1:0", conf, http.HandlerFunc(s.serveSecond))
	}
	return s
}

func listen(addr string, conf *tls.Config, h http.Handler) *listener {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		panic(fmt.Sprintf("registrytest: listen on %s: %v", addr, err))
	}
	ctx, cancel := context.WithCancel(context.Background()) // ends with Close
	l := &listener{ln: ln, cancel: cancel}
	l.srv = &http.Server{
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    log.New(io.Discard, "", 0), // aborted bodies are ordered
		TLSConfig:   conf.Clone(),               // the server writes into it
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !l.enter() {
				panic(http.ErrAbortHandler)
			}
			defer l.done.Done()
			h.ServeHTTP(w, r)
		}),
	}
	l.done.Add(1)
	go func() {
		defer l.done.Done()
		if conf != nil {
			_ = l.srv.ServeTLS(ln, "", "") // ends with ErrServerClosed
			return
		}
		_ = l.srv.Serve(ln)
	}()
	return l
}

func (l *listener) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cancel()
	_ = l.srv.Close()
	l.done.Wait()
}

// Close stops the registry and waits for the requests under way, which it cuts off.
func (s *Server) Close() {
	s.main.close()
	if s.second != nil {
		s.second.close()
	}
}

// Host is the registry's host:port, the first part of a reference.
func (s *Server) Host() string { return s.main.ln.Addr().String() }

// URL is the registry's root, such as "http://127.0.0.1:40001".
func (s *Server) URL() string { return s.scheme() + "://" + s.Host() }

// SecondHost is the host:port that blobs are redirected to; "" without Options.Redirect.
func (s *Server) SecondHost() string {
	if s.second == nil {
		return ""
	}
	return s.second.ln.Addr().String()
}

// CertPool holds the certificate that signs the registry's; nil without Options.TLS.
func (s *Server) CertPool() *x509.CertPool { return s.pool }

// ExpireTokens makes every bearer token issued so far worthless.
func (s *Server) ExpireTokens() { s.tokens.expire() }

// ExpireRedirects makes every URL of the second host issued so far worthless.
func (s *Server) ExpireRedirects() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation++
}

func (s *Server) scheme() string {
	if s.opts.TLS {
		return "https"
	}
	return "http"
}
