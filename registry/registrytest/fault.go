// SPDX-License-Identifier: Apache-2.0

package registrytest

import (
	"net/http"
	"slices"
	"strconv"
	"time"
)

// Fault is something that goes wrong with requests of one kind. With Status it
// is the answer; else the registry answers, and the body is cut or stalls.
type Fault struct {
	Kind   Kind                  // of the requests it meets; KindOther means every kind
	Match  func(r *Request) bool // which of them; nil means all
	Skip   int                   // so many go well first
	Times  int                   // so many are met then; 0 means all
	Status int                   // answered instead, such as 503; 0 means the registry answers

	RetryAfter time.Duration // with Status: the header, in whole seconds; 0 means none
	Header     http.Header   // added to the answer
	Body       string        // with Status: the answer's body

	Truncate int64 // bytes of body after which the connection is cut; 0 means none are cut, negative before the first
	Stall    int64 // bytes of body after which no more come, until the client leaves; 0 means never, negative before the first

	Then func() // called when a body has come to its cut or stall; nil means nothing

	met int // guarded by Server.mu
}

// Inject orders a fault. A request meets the first fault that matches it and is not used up.
func (s *Server) Inject(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &f)
}

// Heal forgets every fault.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// meet returns the fault that r meets, or nil. Match may call the server.
func (s *Server) meet(r *Request) *Fault {
	s.mu.Lock()
	faults := slices.Clone(s.faults)
	s.mu.Unlock()
	for _, f := range faults {
		if f.Kind != KindOther && f.Kind != r.Kind || f.Match != nil && !f.Match(r) {
			continue
		}
		if s.count(f) {
			return f
		}
	}
	return nil
}

// count uses f once and reports whether it is its turn.
func (s *Server) count(f *Fault) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.Times > 0 && f.met >= f.Skip+f.Times {
		return false
	}
	f.met++
	return f.met > f.Skip
}

// answer writes the fault's own answer, if it has one.
func (f *Fault) answer(w http.ResponseWriter) bool {
	for k, v := range f.Header {
		w.Header()[k] = v
	}
	if f.Status == 0 {
		return false
	}
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(f.RetryAfter/time.Second)))
	}
	w.WriteHeader(f.Status)
	_, _ = w.Write([]byte(f.Body)) // a client that left is its own affair
	return true
}

// shaper is the way out of every response: it counts, slows, cuts and stalls.
type shaper struct {
	http.ResponseWriter
	srv    *Server
	req    *Request
	fault  *Fault // nil means none
	sent   int64
	began  time.Time
	header bool
}

// WriteHeader keeps the header honest about ranges.
func (w *shaper) WriteHeader(status int) {
	if w.srv.opts.NoRange {
		w.Header().Del("Accept-Ranges")
	}
	w.header = true
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *shaper) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Write sends p as fast as the options and faults allow.
func (w *shaper) Write(p []byte) (int, error) {
	if !w.header {
		w.WriteHeader(http.StatusOK)
	}
	var n int
	for n < len(p) {
		room, end := w.room(int64(len(p) - n))
		if room > 0 {
			m, err := w.ResponseWriter.Write(p[n : n+int(room)])
			n += m
			w.account(int64(m))
			if err != nil {
				return n, err
			}
			w.pace()
		}
		if end != nil {
			end()
		}
	}
	return n, nil
}

// room is how many of n bytes may leave, and what happens after them.
func (w *shaper) room(n int64) (int64, func()) {
	if w.srv.opts.Bandwidth > 0 {
		n = min(n, 16<<10)
	}
	if w.fault == nil {
		return n, nil
	}
	if c := w.fault.Truncate; c != 0 && w.sent+n >= max(c, 0) {
		return max(c, 0) - w.sent, w.cut
	}
	if c := w.fault.Stall; c != 0 && w.sent+n >= max(c, 0) {
		return max(c, 0) - w.sent, w.stall
	}
	return n, nil
}

// cut ends the response in the middle. The client has what was sent.
func (w *shaper) cut() {
	w.flush()
	panic(http.ErrAbortHandler)
}

func (w *shaper) flush() {
	_ = http.NewResponseController(w.ResponseWriter).Flush() // a client that left is its own affair
	if w.fault.Then != nil {
		w.fault.Then()
	}
}

func (w *shaper) stall() {
	w.flush()
	<-w.req.Context().Done()
	panic(http.ErrAbortHandler)
}

func (w *shaper) account(n int64) {
	w.sent += n
	w.srv.stats.kinds[w.req.Kind].bytes.Add(n)
	if w.req.Second {
		w.srv.stats.second.bytes.Add(n)
	}
}

// pace waits until the bandwidth allows what was sent.
func (w *shaper) pace() {
	if bw := w.srv.opts.Bandwidth; bw > 0 {
		due := time.Duration(float64(w.sent) / float64(bw) * float64(time.Second))
		w.wait(due - time.Since(w.began))
	}
}

func (w *shaper) wait(d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.req.Context().Done():
	}
}
