// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// proxy stands before a registry and the object store that it redirects to, and
// spoils their answers. Its addresses stay the same while it is down.
type proxy struct {
	fronts    []*front
	transport *http.Transport
	rewrite   *strings.Replacer // of the registry's own addresses in headers

	mu      sync.Mutex
	bad     weather
	rand    *rand.Rand
	counts  map[kind]int64 // answers spoilt
	changed chan struct{}  // closed when the weather changes
	passed  int64          // answers left as they are
}

// weather is what happens to requests.
type weather struct {
	kind kind // "" means nothing
	odds float64
}

// front is one address of the proxy.
type front struct {
	p      *proxy
	addr   string // host:port
	target string

	srv  *http.Server // nil while it is down
	done chan struct{}
}

// newProxy starts a proxy for the registry at target and the object store at second.
func newProxy(target, second string, seed uint64) (*proxy, error) {
	p := &proxy{
		transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 256},
		rand:      rand.New(rand.NewPCG(seed, 3)),
		counts:    make(map[kind]int64),
		changed:   make(chan struct{}),
	}
	var addresses []string
	for _, t := range []string{target, second} {
		addr, err := freeAddress()
		if err != nil {
			return nil, errors.Join(err, p.Close())
		}
		f := &front{p: p, addr: addr, target: t}
		if err := f.up(); err != nil {
			return nil, errors.Join(err, p.Close())
		}
		p.fronts = append(p.fronts, f)
		addresses = append(addresses, t, f.addr)
	}
	p.rewrite = strings.NewReplacer(addresses...)
	return p, nil
}

// host is the address to ask instead of the registry's.
func (p *proxy) host() string { return p.fronts[0].addr }

// Close ends all connections and waits for them.
func (p *proxy) Close() error {
	var errs []error
	p.set(weather{})
	for _, f := range p.fronts {
		errs = append(errs, f.down())
	}
	p.transport.CloseIdleConnections()
	return errors.Join(errs...)
}

// set changes the weather. Whatever stalls or dribbles is cut off then.
func (p *proxy) set(w weather) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bad = w
	close(p.changed)
	p.changed = make(chan struct{})
}

// stop has nobody listen, and cuts every connection.
func (p *proxy) stop() error {
	p.mu.Lock()
	p.counts[registryDown]++
	p.mu.Unlock()
	return errors.Join(p.fronts[0].down(), p.fronts[1].down())
}

// start listens again.
func (p *proxy) start() error { return errors.Join(p.fronts[0].up(), p.fronts[1].up()) }

// spoilt is how many answers were spoilt so far, by kind.
func (p *proxy) spoilt() map[kind]int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := make(map[kind]int64, len(p.counts))
	for k, n := range p.counts {
		m[k] = n
	}
	return m
}

// meet decides what happens to one request, how much of its body goes well, and until when.
func (p *proxy) meet() (k kind, well float64, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	chance, well := p.rand.Float64(), p.rand.Float64()
	if p.bad.kind == "" || chance >= p.bad.odds {
		p.passed++
		return "", 0, nil
	}
	p.counts[p.bad.kind]++
	return p.bad.kind, well, p.changed
}

func (f *front) up() error {
	ln, err := net.Listen("tcp", f.addr)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", f.addr, err)
	}
	f.srv = &http.Server{Handler: f, ErrorLog: log.New(io.Discard, "", 0)} // aborted answers are meant
	f.done = make(chan struct{})
	go func() {
		defer close(f.done)
		_ = f.srv.Serve(ln) // ends with down
	}()
	return nil
}

func (f *front) down() error {
	if f.srv == nil {
		return nil
	}
	err := f.srv.Close()
	<-f.done
	f.srv = nil
	return err
}

// ServeHTTP passes a request on, and spoils its answer where the weather is bad.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k, well, changed := f.p.meet()
	if k != "" && instead(w, r, k, changed) {
		return
	}
	res, err := f.ask(r, k)
	if err != nil {
		http.Error(w, "the registry behind the proxy does not answer", http.StatusBadGateway)
		return
	}
	defer res.Body.Close()
	for name, values := range res.Header {
		for _, v := range values {
			w.Header().Add(name, f.p.rewrite.Replace(v))
		}
	}
	if k == wrongRange && res.StatusCode == http.StatusPartialContent {
		w.Header().Set("Content-Range", "bytes 0-0/1")
	}
	w.WriteHeader(res.StatusCode)
	spoil(w, r, res, k, well, changed)
}

// ask asks the target what r asks.
func (f *front) ask(r *http.Request, k kind) (*http.Response, error) {
	req, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+f.target+r.URL.RequestURI(), r.Body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = r.ContentLength
	req.Header = r.Header.Clone()
	if k == wholeBlob {
		req.Header.Del("Range")
	}
	return f.p.transport.RoundTrip(req)
}

// instead answers for the registry, if that is what kind is about.
func instead(w http.ResponseWriter, r *http.Request, k kind, changed <-chan struct{}) bool {
	switch k {
	case reset:
		hangUp(w)
	case unauthorized:
		w.Header().Set("Www-Authenticate", `Basic realm="elsewhere"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
	case forbidden:
		http.Error(w, `{"errors":[{"code":"DENIED"}]}`, http.StatusForbidden)
	case notFound:
		http.Error(w, `{"errors":[{"code":"BLOB_UNKNOWN"}]}`, http.StatusNotFound)
	case tooMany:
		w.Header().Set("Retry-After", "1")
		http.Error(w, `{"errors":[{"code":"TOOMANYREQUESTS"}]}`, http.StatusTooManyRequests)
	case serverError:
		http.Error(w, "trouble", http.StatusInternalServerError)
	case unavailable:
		http.Error(w, "trouble", http.StatusServiceUnavailable)
	case loginPage:
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html><form>Password: <input type=password></form></html>") // a client that left is its own affair
	case stall:
		if r.ContentLength%2 == 0 && r.Header.Get("Range") == "" { // else in the middle of the body
			await(r.Context(), changed)
			hangUp(w)
			return true
		}
		return false
	default:
		return false
	}
	return true
}

// spoil sends the body, and does to it what kind says.
func spoil(w http.ResponseWriter, r *http.Request, res *http.Response, k kind, well float64, changed <-chan struct{}) {
	good := int64(well * float64(max(res.ContentLength, 0)))
	var err error
	switch k {
	case cutBody, shortBody, stall, slowLoris:
		if _, err = io.CopyN(w, res.Body, good); err != nil {
			break
		}
		_ = http.NewResponseController(w).Flush() // a client that left is its own affair
		switch k {
		case cutBody:
			hangUp(w)
		case stall:
			await(r.Context(), changed)
			hangUp(w)
		case slowLoris:
			dribble(w, r, res.Body, changed)
		}
		panic(http.ErrAbortHandler)
	case wrongBytes:
		_, err = io.Copy(w, &flipped{r: res.Body})
	default:
		_, err = io.Copy(w, res.Body)
	}
	if err != nil {
		panic(http.ErrAbortHandler)
	}
}

// await waits for the weather to change or the client to leave.
func await(ctx context.Context, changed <-chan struct{}) {
	select {
	case <-changed:
	case <-ctx.Done():
	}
}

// hangUp resets the connection.
func hangUp(w http.ResponseWriter) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		if t, ok := c.(*net.TCPConn); ok {
			_ = t.SetLinger(0) // it is closed all the same
		}
		_ = c.Close()
	}
	panic(http.ErrAbortHandler)
}

// dribble sends a few bytes at a time, and cuts the rest off when the weather changes.
func dribble(w http.ResponseWriter, r *http.Request, body io.Reader, changed <-chan struct{}) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-changed:
			return
		case <-r.Context().Done():
			return
		case <-tick.C:
			if _, err := io.CopyN(w, body, 7); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush() // a client that left is its own affair
		}
	}
}

// flipped changes one bit in every 4,096 bytes, and the first.
type flipped struct {
	r   io.Reader
	off int64
}

// Read implements io.Reader.
func (f *flipped) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	for i := (4096 - f.off%4096) % 4096; i < int64(n); i += 4096 {
		p[i] ^= 0x10
	}
	f.off += int64(n)
	return n, err
}
