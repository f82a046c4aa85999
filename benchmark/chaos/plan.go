// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// kind is a kind of fault.
type kind string

// The faults of the node: what ends, and what comes after it.
const (
	killDaemon     kind = "kill"       // kill -9 of the daemon, and a start
	termDaemon     kind = "term"       // SIGTERM
	intDaemon      kind = "int"        // SIGINT
	killHolder     kind = "holder"     // kill -9 of the holder
	killBoth       kind = "both"       // of daemon and holder at once: containers lose the mount
	awayDaemon     kind = "away"       // kill -9, and no start before the holder's bound is over
	killContainerd kind = "containerd" // kill -9 or SIGTERM of containerd, and a start
	coldStart      kind = "cold"       // kill -9, and the daemon forgets what it has on disk
	corruptFiles   kind = "corrupt"    // its files are damaged while it is down: see harms
	fullDisk       kind = "full"       // its disk is full for a while
)

// The faults of the registry. Each lasts for a while and meets some or all requests.
const (
	registryDown kind = "down"       // nobody listens, and connections are cut
	reset        kind = "reset"      // instead of an answer
	cutBody      kind = "cut"        // reset in the middle of a body
	shortBody    kind = "short"      // the connection ends in the middle of a body
	stall        kind = "stall"      // no answer, or no more of it
	slowLoris    kind = "slow"       // a few bytes at a time
	unauthorized kind = "401"        // with a challenge
	forbidden    kind = "403"        //
	notFound     kind = "404"        //
	tooMany      kind = "429"        // with Retry-After
	serverError  kind = "500"        //
	unavailable  kind = "503"        //
	wholeBlob    kind = "whole"      // 200 and all of the blob instead of 206
	wrongRange   kind = "range"      // another Content-Range
	wrongBytes   kind = "bytes"      // of the right length
	loginPage    kind = "html"       // 200 and a page that asks for a password
	expire       kind = "expire"     // tokens and signed URLs are worth nothing from now on
	replaceBox   kind = "replace"    // a container is killed and removed, and another one started
	runTool      kind = "run"        // a container is run to its end
	pullAgain    kind = "pull"       // an image is removed, and pulled again
	pullTwice    kind = "pulltwice"  // the same, by two at once
	dropCaches   kind = "dropcaches" // the kernel forgets names and pages
	purgeImage   kind = "purge"      // the image is removed with all of its containers, and all comes again
)

// lane is faults that come one after another.
type lane string

// The lanes, each with a goroutine of its own.
const (
	nodeLane     lane = "node"
	registryLane lane = "registry"
	userLane     lane = "user"
)

// share is how often a kind comes in its lane, compared with the others.
type share struct {
	lane   lane
	kind   kind
	weight int
	least  time.Duration // how long it lasts
	most   time.Duration
}

// shares are all kinds.
func shares() []share {
	ms := time.Millisecond
	return []share{
		{nodeLane, killDaemon, 50, 0, 200 * ms},
		{nodeLane, termDaemon, 8, 0, 300 * ms},
		{nodeLane, intDaemon, 4, 0, 300 * ms},
		{nodeLane, killHolder, 10, 0, 0},
		{nodeLane, killBoth, 4, 0, 300 * ms},
		{nodeLane, awayDaemon, 1, awayFor, awayFor + 3*time.Second},
		{nodeLane, killContainerd, 6, 0, 500 * ms},
		{nodeLane, coldStart, 8, 0, 100 * ms},
		{nodeLane, corruptFiles, 24, 0, 100 * ms},
		{nodeLane, fullDisk, 4, 300 * ms, 2500 * ms},

		{registryLane, registryDown, 3, 100 * ms, 2000 * ms},
		{registryLane, reset, 2, 100 * ms, 1500 * ms},
		{registryLane, cutBody, 3, 100 * ms, 1500 * ms},
		{registryLane, shortBody, 3, 100 * ms, 1500 * ms},
		{registryLane, stall, 2, 100 * ms, 2500 * ms},
		{registryLane, slowLoris, 2, 100 * ms, 2500 * ms},
		{registryLane, unauthorized, 2, 100 * ms, 1000 * ms},
		{registryLane, forbidden, 2, 100 * ms, 1000 * ms},
		{registryLane, notFound, 2, 100 * ms, 1000 * ms},
		{registryLane, tooMany, 2, 100 * ms, 1500 * ms},
		{registryLane, serverError, 2, 100 * ms, 1000 * ms},
		{registryLane, unavailable, 2, 100 * ms, 1000 * ms},
		{registryLane, wholeBlob, 2, 100 * ms, 2000 * ms},
		{registryLane, wrongRange, 2, 100 * ms, 1500 * ms},
		{registryLane, wrongBytes, 3, 100 * ms, 1500 * ms},
		{registryLane, loginPage, 2, 100 * ms, 1500 * ms},
		{registryLane, expire, 4, 0, 0},

		{userLane, replaceBox, 8, 0, 0},
		{userLane, runTool, 8, 0, 0},
		{userLane, pullAgain, 3, 0, 0},
		{userLane, pullTwice, 2, 0, 0},
		{userLane, purgeImage, 3, 0, 0},
		{userLane, dropCaches, 3, 0, 0},
	}
}

// lanes are the lanes in which there is something to do for the kinds.
func lanes(kinds []kind) []lane {
	var all []lane
	for _, s := range shares() {
		if slices.Contains(kinds, s.kind) && !slices.Contains(all, s.lane) {
			all = append(all, s.lane)
		}
	}
	return all
}

// allKinds are the names that -kinds takes.
func allKinds() []kind {
	var all []kind
	for _, s := range shares() {
		all = append(all, s.kind)
	}
	return all
}

// parseKinds reads a list such as "kill,down" or "-full,-corrupt"; "" is all of them.
func parseKinds(list string) ([]kind, error) {
	kinds := allKinds()
	if list == "" {
		return kinds, nil
	}
	var wanted []kind
	for name := range strings.SplitSeq(list, ",") {
		k, without := strings.CutPrefix(name, "-")
		if !slices.Contains(allKinds(), kind(k)) {
			return nil, fmt.Errorf("there is no kind of fault %q, only %s", k, join(allKinds()))
		}
		if without {
			kinds = slices.DeleteFunc(kinds, func(x kind) bool { return x == kind(k) })
			continue
		}
		wanted = append(wanted, kind(k))
	}
	if wanted == nil {
		wanted = kinds
	}
	if len(wanted) == 0 {
		return nil, fmt.Errorf("no kind of fault is left of %s", list)
	}
	return wanted, nil
}

func join(kinds []kind) string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = string(k)
	}
	return strings.Join(names, ",")
}

// step is one fault of a lane.
type step struct {
	n     int           // of the lane, from 0
	pause time.Duration // before it
	kind  kind
	hold  time.Duration // how long it lasts
	odds  float64       // of the registry: how many of the requests it meets, at most 1
	seed  uint64        // of whatever else is decided by chance
}

// String is the step for people who compare schedules.
func (s step) String() string {
	return fmt.Sprintf("%d %v %s %v %.2f %x", s.n, s.pause, s.kind, s.hold, s.odds, s.seed)
}

// schedule yields the steps of a lane, for ever. It depends on its arguments alone.
type schedule struct {
	r      *rand.Rand
	shares []share
	total  int
	n      int
}

func newSchedule(o options, l lane) *schedule {
	h := fnv.New64a()
	_, _ = h.Write([]byte(l)) // a hash does not fail
	s := &schedule{r: rand.New(rand.NewPCG(o.seed, h.Sum64()))}
	for _, sh := range shares() {
		if sh.lane == l && slices.Contains(o.kinds, sh.kind) {
			if sh.kind == o.often {
				sh.weight *= 10
			}
			s.shares = append(s.shares, sh)
			s.total += sh.weight
		}
	}
	return s
}

// next is the next step. Every number is drawn for every step, whichever its kind, so
// that schedules do not shift when a kind changes.
func (s *schedule) next() step {
	st := step{n: s.n, seed: s.r.Uint64()}
	s.n++
	calm, pause, hold, odds := s.r.IntN(60), s.r.Int64N(1000), s.r.Int64N(1000), s.r.IntN(3)
	at := s.r.IntN(s.total)
	for _, sh := range s.shares {
		if at -= sh.weight; at < 0 {
			st.kind = sh.kind
			st.hold = sh.least + time.Duration(int64(sh.most-sh.least)/1000*hold)
			break
		}
	}
	// Bursts, and calms in which what was interrupted can come to its end.
	st.pause = time.Duration(10+pause/10) * time.Millisecond
	switch {
	case calm == 0: // for an image to be pulled by those who had to wait
		st.pause = time.Duration(5000+4*pause) * time.Millisecond
	case calm < 3:
		st.pause = time.Duration(800+3*pause/2) * time.Millisecond
	}
	st.odds = []float64{1, 1, 0.3}[odds]
	return st
}
