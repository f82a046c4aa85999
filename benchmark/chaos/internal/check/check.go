// SPDX-License-Identifier: Apache-2.0

// Package check compares a file tree with the truth about it, in all ways in which
// programs look at files, over and over, and never gives up.
//
// [Run] is the checker, which runs in a container; the [Record]s that it writes are what
// its reader outside learns: each [Failure] with its time, and [Progress] now and then.
//
//	check.Run(check.Options{Root: "/", Truth: "/.chaos/truth", Out: "/.chaos/out", Seed: 1})
//
// It goes on until there is a file [FinishFile] beside its log. Then it looks at everything
// once more, writes its last Progress, and ends.
//
// # Limits
//
// A way looks at one file at a time, and waits up to [pause] before the next: checkers
// are many, and the machine is small.
//
// # Decisions
//
//   - The truth is a tree on a real file system, not a function of the path: what tar has
//     unpacked there is right in ways that nobody here has thought of.
//   - Times are the kernel's monotonic clock, which does not differ from container to container.
//   - Whoever reads has the pages forgotten afterwards, or all would come from the page cache
//     before long.
//   - A page fault that fails is a signal. Go makes a panic of it, and that is a failure with EIO.
package check

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Files in Options.Out.
const (
	LogFile    = "log"    // Records, one JSON text a line
	FinishFile = "finish" // made from outside: the end is wanted
)

const (
	pause        = 6 * time.Millisecond   // at most, between two operations of a way
	failurePause = 50 * time.Millisecond  // after one that failed
	reportEvery  = 200 * time.Millisecond // between two Progress records
)

// Options says what Run checks.
type Options struct {
	Root  string // the tree
	Truth string // what it should be; of the root itself nothing but the names below it is compared
	Out   string // directory of the log
	Seed  uint64 // of the order in which files are looked at
}

// checker is the state that all ways share.
type checker struct {
	opts  Options
	paths []string // relative to the root, of everything but the root
	log   log

	bytes, longest atomic.Int64
	ops            map[string]*atomic.Int64
}

// Run checks until it is told to finish. Its error is one of the checker itself, not of what it checks.
func Run(opts Options) (err error) {
	c := &checker{opts: opts, ops: make(map[string]*atomic.Int64)}
	err = filepath.WalkDir(opts.Truth, func(path string, _ fs.DirEntry, err error) error {
		rel, e := filepath.Rel(opts.Truth, path)
		if rel != "." {
			c.paths = append(c.paths, rel)
		}
		return errors.Join(err, e)
	})
	if err != nil {
		return fmt.Errorf("list the truth: %w", err)
	}
	if len(c.paths) == 0 {
		return fmt.Errorf("list the truth: %s is empty", opts.Truth)
	}
	c.log.file, err = os.OpenFile(filepath.Join(opts.Out, LogFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.log.file.Close()) }()
	for name := range ways() {
		c.ops[name] = new(atomic.Int64)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for name, look := range ways() {
		r := rand.New(rand.NewPCG(opts.Seed, uint64(crc32.ChecksumIEEE([]byte(name)))))
		wg.Go(func() { c.loop(name, look, r, stop) })
	}
	c.await()
	close(stop)
	wg.Wait()
	c.all()
	c.report(true)
	return c.log.failed()
}

// await reports progress until the end is wanted.
func (c *checker) await() {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for range tick.C {
		c.report(false)
		if _, err := os.Lstat(filepath.Join(c.opts.Out, FinishFile)); err == nil {
			return
		}
	}
}

func (c *checker) report(final bool) {
	p := &Progress{Ops: make(map[string]int64), Bytes: c.bytes.Load(), Longest: c.longest.Load(), Final: final}
	for way, n := range c.ops {
		p.Ops[way] = n.Load()
	}
	c.log.write(Record{Progress: p})
}

// loop looks at files in one way until stop is closed.
func (c *checker) loop(way string, look func(*looker) error, r *rand.Rand, stop <-chan struct{}) {
	debug.SetPanicOnFault(true)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-stop:
			return
		case <-timer.C:
		}
		wait := time.Duration(r.Int64N(int64(pause)))
		if !c.look(way, look, c.paths[r.IntN(len(c.paths))], r) {
			wait = failurePause
		}
		timer.Reset(wait)
	}
}

// all looks at every file in every way.
func (c *checker) all() {
	debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(false)
	r := rand.New(rand.NewPCG(c.opts.Seed, 2))
	for way, look := range ways() {
		for _, path := range c.paths {
			c.look(way, look, path, r)
		}
	}
}

// look looks at a file once, and reports whether it was right.
func (c *checker) look(way string, look func(*looker) error, path string, r *rand.Rand) bool {
	l := &looker{root: filepath.Join(c.opts.Root, path), truth: filepath.Join(c.opts.Truth, path), rand: r}
	begin := Now()
	err := l.run(look)
	end := Now()
	if err != nil {
		c.log.write(Record{Failure: failure(way, path, l, begin, end, err)})
		return false
	}
	if l.looked {
		c.ops[way].Add(1)
		c.bytes.Add(l.bytes)
		for took := end - begin; ; {
			old := c.longest.Load()
			if took <= old || c.longest.CompareAndSwap(old, took) {
				break
			}
		}
	}
	return true
}

func failure(way, path string, l *looker, begin, end int64, err error) *Failure {
	f := &Failure{Way: way, Path: path, Off: l.off, Len: l.len, Begin: begin, End: end, Wrong: errors.Is(err, errWrong), Text: err.Error()}
	var errno syscall.Errno
	switch {
	case f.Wrong:
	case errors.Is(err, errFault):
		f.Errno = int(unix.EIO)
	case errors.As(err, &errno):
		f.Errno = int(errno)
	}
	return f
}
