// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/distribution/reference"
	orasregistry "oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// Options configures a Client. The zero value is an ordinary client.
type Options struct {
	PlainHTTP  bool                       // use http for every host; loopback hosts are tried with http anyway when https is not spoken there
	Credential CredentialFunc             // nil means DockerCredentials
	UserAgent  string                     // "" means "soci"
	Transport  http.RoundTripper          // nil means NewTransport(Timeouts)
	Mirrors    func(host string) []Mirror // tried in order before the origin, for blobs; nil means none
	Retry      Retry
	Timeouts   Timeouts
}

// Mirror is a host asked for blobs before the origin.
type Mirror struct {
	Host      string
	PlainHTTP bool
	Timeout   time.Duration // of one request with its body; 0 means Timeouts alone
	Header    http.Header   // sent to this host only; nil means none
}

// Retry bounds the retries of one operation. Zero fields mean the default.
type Retry struct {
	Max              int           // retries in a row without progress; 0 means 8, negative none
	MinWait, MaxWait time.Duration // waits double from 30ms to 30s by default, with jitter
}

// Timeouts bounds what a registry may keep us waiting for. Zero fields mean the default.
type Timeouts struct {
	Dial   time.Duration // of a connection, TLS included; 0 means 3s; without effect if Options.Transport is set
	Header time.Duration // from request to response headers; 0 means 30s
	Stall  time.Duration // between two bytes of a body; 0 means 30s
	Total  time.Duration // of one read with all its retries; 0 means 5min; of a stream, without progress; not of Push
}

func or[T int | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

func (t Timeouts) withDefaults() Timeouts {
	return Timeouts{
		Dial:   or(t.Dial, 3*time.Second),
		Header: or(t.Header, 30*time.Second),
		Stall:  or(t.Stall, 30*time.Second),
		Total:  or(t.Total, 5*time.Minute),
	}
}

func (r Retry) withDefaults() Retry {
	return Retry{
		Max:     max(or(r.Max, 8), 0),
		MinWait: or(r.MinWait, 30*time.Millisecond),
		MaxWait: or(r.MaxWait, 30*time.Second),
	}
}

// Client talks to registries. It is safe for concurrent use.
type Client struct {
	opts   Options // with defaults
	tokens *tokenCache
	auth   *auth.Client // adds credentials, follows redirects except of blobs
	bare   *http.Client // adds nothing, follows nothing
	health mirrorHealth

	mu     sync.Mutex      // guards scheme
	scheme map[string]bool // loopback host → plain http
}

// NewClient returns a client.
func NewClient(opts Options) (*Client, error) {
	opts.Timeouts, opts.Retry = opts.Timeouts.withDefaults(), opts.Retry.withDefaults()
	if opts.UserAgent == "" {
		opts.UserAgent = "soci"
	}
	if strings.ContainsAny(opts.UserAgent, "\r\n") {
		return nil, fmt.Errorf("new client: user agent %q has a line break", opts.UserAgent)
	}
	if opts.Credential == nil {
		opts.Credential = DockerCredentials()
	}
	if opts.Transport == nil {
		opts.Transport = NewTransport(opts.Timeouts)
	}
	c := &Client{opts: opts, tokens: newTokenCache(), scheme: make(map[string]bool)}
	c.bare = &http.Client{Transport: opts.Transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	c.auth = &auth.Client{
		Client:     &http.Client{Transport: opts.Transport, CheckRedirect: checkRedirect},
		Header:     http.Header{"User-Agent": {opts.UserAgent}},
		Credential: orasCredential(opts.Credential),
		Cache:      c.tokens,
		ClientID:   "soci",
	}
	return c, nil
}

// NewTransport returns the transport that NewClient makes by default: for a
// caller who wants to set its TLS.
func NewTransport(t Timeouts) *http.Transport {
	t = t.withDefaults()
	dialer := &net.Dialer{Timeout: t.Dial, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dialer.DialContext,
		TLSHandshakeTimeout:    t.Dial,
		ResponseHeaderTimeout:  t.Header,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    64, // spans come in bursts of parallel ranges
		MaxResponseHeaderBytes: 256 << 10,
		ReadBufferSize:         64 << 10,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
	}
}

// Close drops the idle connections. The client stays usable.
func (c *Client) Close() error {
	c.bare.CloseIdleConnections()
	return nil
}

// Repository returns the repository of ref, a reference such as
// "localhost:5000/go:1.26" (its tag or digest is ignored). It makes no request.
func (c *Client) Repository(ref string) (*Repository, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, fmt.Errorf("parse reference %q: %w", ref, err)
	}
	r := orasregistry.Reference{Registry: reference.Domain(named), Repository: reference.Path(named)}
	if err := r.ValidateRegistry(); err != nil {
		return nil, fmt.Errorf("parse reference %q: %w", ref, err)
	}
	return &Repository{client: c, ref: r}, nil
}

// plainHTTP reports whether host is spoken to without TLS. A loopback host is
// asked, until it has said so: a connection that fails says nothing, and is the error.
func (c *Client) plainHTTP(ctx context.Context, host string) (bool, error) {
	if c.opts.PlainHTTP || !isLoopback(host) {
		return c.opts.PlainHTTP, nil
	}
	c.mu.Lock()
	plain, known := c.scheme[host]
	c.mu.Unlock()
	if known {
		return plain, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/v2/", nil)
	if err != nil {
		return false, fmt.Errorf("ask %s for https: %w", host, scrubbed(err))
	}
	res, err := c.guard(req, c.bare.Do, 0)
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err == nil:
		_ = res.Body.Close() // only the handshake was of interest
	case isPlain(err):
		plain = true
	case errors.Is(err, syscall.ECONNREFUSED) && !hasPort(host):
		return true, nil // nobody at the port of https, now
	case temporary(err):
		return false, fmt.Errorf("ask %s for https: %w", host, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.scheme[host] = plain
	return plain, nil
}

// isPlain reports whether a TLS handshake failed because the server has no TLS.
func isPlain(err error) bool {
	var rec tls.RecordHeaderError
	return errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &rec)
}

func hasPort(host string) bool {
	_, port, err := net.SplitHostPort(host)
	return err == nil && port != ""
}

// isLoopback reports whether host, with or without port, is this machine.
func isLoopback(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	return name == "localhost" || net.ParseIP(name).IsLoopback()
}
