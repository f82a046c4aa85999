// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/fs"
)

// verdict returns what the mount was told of layer n, once the background is done with it.
func (f *fixture) verdict(i *testImage, n int) (error, bool) { return f.mount.verdict(i.key(n)) }

// TestVerdicts holds that the mount learns what a layer has turned out to be, whatever that is.
func TestVerdicts(t *testing.T) {
	good := newImage(t, newMemory(), "registry.test/app:1", 1, 2).build(t, -1)
	for _, c := range []struct {
		name   string
		spoil  func(i *testImage)
		result CompletionResult
		err    error
	}{
		{"good", func(*testImage) {}, Verified, nil},
		{"not to be had", func(i *testImage) { failOn(i.m, "read", i.manifest.Layers[0].Digest) }, Failed, errInjected},
		{"wrong", func(i *testImage) { i.lie(t) }, Mismatch, errMismatch},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := good.clone()
			c.spoil(i)
			opts, told := completions()
			f := newFixture(t, i.m, opts)
			f.mustPrepare(i, 0, Lazy)
			if got := <-told; got.Result != c.result {
				t.Fatalf("completion %+v", got)
			}
			err, ok := f.verdict(i, 0)
			if !ok || !errors.Is(err, c.err) {
				t.Errorf("verdict %v, %t, want %v", err, ok, c.err)
			}
			if later := errors.Is(err, fs.ErrUnverified); later != (c.result == Failed) {
				t.Errorf("verdict %v: to come: %t", err, later)
			}
			if c.result != Verified {
				return
			}
			f.restart(func() { failOn(i.m, "read", i.manifest.Layers[0].Digest) })
			if err, ok := f.verdict(i, 0); !ok || err != nil {
				t.Errorf("after a restart: verdict %v, %t", err, ok)
			}
		})
	}
}

// TestVerdictDropped holds that the mount learns of layers that the background leaves out.
func TestVerdictDropped(t *testing.T) {
	m := newMemory()
	opts, told := completions()
	opts.Background.MaxQueue = 1
	f := newFixture(t, m, opts)
	i := newImage(t, m, "registry.test/app:1", 1, 2, 3, 4, 5).build(t, -1)
	release := make(chan struct{})
	m.setHook(func(ctx context.Context, op string, _ digest.Digest) error {
		if op == "read" {
			<-release
		}
		return ctx.Err()
	})
	f.prepareAll(i)
	dropped := 0
	for range i.chains {
		c := <-told
		if c.Result == Dropped {
			dropped++
		} else if c.Result != Verified {
			t.Errorf("completion %+v", c)
		}
		if dropped == 2 { // two are being filled, one waits
			select {
			case <-release:
			default:
				close(release)
			}
		}
	}
	said := 0
	for n := range i.chains {
		if err, ok := f.verdict(i, n); ok && errors.Is(err, errDropped) && errors.Is(err, fs.ErrUnverified) {
			said++
		} else if !ok || err != nil {
			t.Errorf("layer %d: verdict %v, %t", n, err, ok)
		}
	}
	if said != dropped || dropped == 0 {
		t.Errorf("%d layers were left out, the mount knows of %d", dropped, said)
	}
}

// TestGuardedKept holds that a layer whose files cannot be read before it is verified is not left out.
func TestGuardedKept(t *testing.T) {
	kinds := []bool{true, false, true, false}
	for oldest, want := range map[bool][]int{false: {3, 1, -1}, true: {1, 3, -1}} {
		s := &fills{opts: Background{DropOldest: oldest}}
		for _, guarded := range kinds {
			s.queue = append(s.queue, &fill{guarded: guarded})
		}
		for _, i := range want {
			if got := s.leaveOut(); got != i {
				t.Fatalf("oldest %t: leaves out %d, want %d", oldest, got, i)
			}
			if i >= 0 {
				s.queue[i].guarded = true
			}
		}
	}
	m := newMemory()
	opts, told := completions()
	opts.Background.MaxQueue, opts.Policy.GuardPrivileged = 1, true
	f := newFixture(t, m, opts)
	i := newImage(t, m, "registry.test/app:1", 1, 2, 3, 4, 5).build(t, -1)
	f.prepareAll(i)
	for range i.chains {
		if c := <-told; c.Result != Verified {
			t.Errorf("completion %+v", c)
		}
	}
}

// TestGuardNeedsBackground holds that nobody waits for what will never come.
func TestGuardNeedsBackground(t *testing.T) {
	o := Options{Root: "/x", Policy: Policy{GuardPrivileged: true}}
	if _, err := o.withDefaults(); err != nil {
		t.Error(err)
	}
	o.Background.Disable = true
	if _, err := o.withDefaults(); err == nil {
		t.Error("accepted without the background")
	}
	for _, p := range []Policy{{MaxIndexSize: -1}, {MaxZTOCSize: -1}, {MaxFiles: -1}, {MaxLayerSize: -1}, {MaxExpansion: -1}} {
		if _, err := (Options{Root: "/x", Policy: p}).withDefaults(); err == nil {
			t.Errorf("accepted %+v", p)
		}
	}
}
