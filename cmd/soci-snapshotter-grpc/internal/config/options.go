// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/seekoci/seekoci/fs"
	"github.com/seekoci/seekoci/fs/hold"
	"github.com/seekoci/seekoci/fs/span"
	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/snapshotter"
)

// unlimited is how many zTOCs are fetched at once where the file sets no limit.
const unlimited = 256

// The values of background_fetch.drop_policy.
const (
	dropNewest = "newest"
	dropOldest = "oldest"
)

// Validate returns an error that names the first key whose value cannot be meant.
func (c Config) Validate() error {
	for _, f := range []struct {
		key   string
		value int64
		unit  time.Duration // of which value is a count; 0: bytes
	}{
		{"mount_timeout_sec", c.MountTimeoutSec, time.Second},
		{"http.DialTimeoutMsec", c.HTTP.DialTimeoutMsec, time.Millisecond},
		{"http.ResponseHeaderTimeoutMsec", c.HTTP.ResponseHeaderTimeoutMsec, time.Millisecond},
		{"http.RequestTimeoutMsec", c.HTTP.RequestTimeoutMsec, time.Millisecond},
		{"http.MinWaitMsec", c.HTTP.MinWaitMsec, time.Millisecond},
		{"http.MaxWaitMsec", c.HTTP.MaxWaitMsec, time.Millisecond},
		{"background_fetch.silence_period_msec", c.BackgroundFetch.SilencePeriodMsec, time.Millisecond},
		{"snapshotter.min_layer_size", c.Snapshotter.MinLayerSize, 0},
		{"holder.eio_after_sec", c.eioAfterSec(), time.Second},
	} {
		if f.value < 0 || f.unit > 0 && f.value > math.MaxInt64/int64(f.unit) {
			return fmt.Errorf("%s: %d is out of range", f.key, f.value)
		}
	}
	if !slices.Contains([]string{"", "tcp", "tcp4", "tcp6", "unix"}, c.MetricsNetwork) {
		return fmt.Errorf("metrics_network: %q is neither tcp nor unix", c.MetricsNetwork)
	}
	if !slices.Contains([]string{"", dropNewest, dropOldest}, c.BackgroundFetch.DropPolicy) {
		return fmt.Errorf("background_fetch.drop_policy: %q is neither %s nor %s", c.BackgroundFetch.DropPolicy, dropNewest, dropOldest)
	}
	if err := c.validateSecurity(); err != nil {
		return err
	}
	if err := c.validateCache(); err != nil {
		return err
	}
	for name, h := range c.Resolver.Host {
		for i, m := range h.Mirrors {
			if m.Host == "" {
				return fmt.Errorf("resolver.host.%q.mirrors[%d]: host is missing", name, i)
			}
			if m.RequestTimeoutSec > math.MaxInt64/int64(time.Second) {
				return fmt.Errorf("resolver.host.%q.mirrors[%d].request_timeout_sec: %d is out of range", name, i, m.RequestTimeoutSec)
			}
		}
	}
	return nil
}

// Registry returns what c says about speaking to registries.
func (c Config) Registry() registry.Options {
	return registry.Options{
		Timeouts: registry.Timeouts{
			Dial:   msec(c.HTTP.DialTimeoutMsec),
			Header: msec(c.HTTP.ResponseHeaderTimeoutMsec),
			Total:  msec(c.HTTP.RequestTimeoutMsec),
		},
		Retry: registry.Retry{
			Max:     c.HTTP.MaxRetries,
			MinWait: msec(c.HTTP.MinWaitMsec),
			MaxWait: msec(c.HTTP.MaxWaitMsec),
		},
		Mirrors: c.mirrors,
	}
}

func (c Config) mirrors(host string) []registry.Mirror {
	var ms []registry.Mirror
	for _, m := range c.Resolver.Host[host].Mirrors {
		ms = append(ms, registry.Mirror{
			Host:      m.Host,
			PlainHTTP: m.Insecure,
			Timeout:   time.Duration(max(m.RequestTimeoutSec, 0)) * time.Second,
		})
	}
	return ms
}

// Options returns what c says about layers. Root, Registry and Log are the caller's to set.
func (c Config) Options() snapshotter.Options {
	o := snapshotter.Options{
		Discover:      []index.Version{},
		MinLayerSize:  c.Snapshotter.MinLayerSize,
		Policy:        c.policy(),
		LookupTimeout: time.Duration(c.MountTimeoutSec) * time.Second,
		Workers:       int(min(c.MaxConcurrency, unlimited)),
		FS:            fs.Options{Debug: c.Debug || c.FUSE.LogFuseOperations},
		Spans:         span.Options{Retries: c.Blob.MaxSpanVerificationRetries, MaxBytes: c.Cache.MaxBytes, Reserve: c.Cache.reserve},
		Background:    c.background(),
	}
	if c.BackgroundFetch.Disable {
		o.Spans.Around = -1 // who does not want all of a layer does not want that
	}
	if c.MaxConcurrency < 0 {
		o.Workers = unlimited
	}
	if o.Spans.Retries < 0 {
		o.Spans.Retries = 3
	}
	// The default is 0, and nobody means by that to have an error where another mirror has
	// the right bytes.
	o.Spans.Retries = max(o.Spans.Retries, minSpanRetries)
	if c.PullModes.V1.Enable {
		o.Discover = append(o.Discover, index.V1)
	}
	if c.PullModes.V2.Enable {
		o.Discover = append(o.Discover, index.V2)
	}
	return o
}

// minSpanRetries is once from where the wrong bytes came from, and once from elsewhere.
const minSpanRetries = 2

// defaultEIOAfterSec is what holder.eio_after_sec is if it is not there.
const defaultEIOAfterSec = int64(hold.DefaultGuard / time.Second)

func (c Config) eioAfterSec() int64 {
	if c.Holder.EIOAfterSec == nil {
		return defaultEIOAfterSec
	}
	return *c.Holder.EIOAfterSec
}

// HolderOptions returns what c says about the holder. Dir, Log and Store are the caller's to set.
func (c Config) HolderOptions() hold.Options {
	o := hold.Options{Guard: time.Duration(c.eioAfterSec()) * time.Second}
	if o.Guard == 0 {
		o.Guard = -1 // never
	}
	return o
}

// background returns what c says about fetching in the background.
func (c Config) background() snapshotter.Background {
	b := snapshotter.Background{
		Disable:    c.BackgroundFetch.Disable,
		Silence:    msec(c.BackgroundFetch.SilencePeriodMsec),
		MaxQueue:   c.BackgroundFetch.MaxQueueSize,
		DropOldest: c.BackgroundFetch.DropPolicy == dropOldest,
	}
	if c.BackgroundFetch.SilencePeriodMsec == Default().BackgroundFetch.SilencePeriodMsec {
		b.Silence = 0
	}
	return b
}

func msec(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
