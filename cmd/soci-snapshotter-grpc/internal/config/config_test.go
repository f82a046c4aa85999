// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/snapshotter"
)

// incumbentKeys is every key of the incumbent's file, with a value of its type
// that is not the default.
const incumbentKeys = `
http_cache_type = "memory"
filesystem_cache_type = "memory"
resolve_result_entry = 31
debug = true
disable_verification = true
max_concurrency = -1
mount_timeout_sec = 7
fuse_metrics_emit_wait_duration_sec = 61
metrics_address = "127.0.0.1:1"
metrics_network = "unix"
no_prometheus = true
debug_address = "127.0.0.1:2"
metadata_store = "db-multi"
metadata_db_no_sync = true
metadata_insertion_chunk_size = 5001
skip_check_snapshotter_supported = true
[http]
DialTimeoutMsec = 1
ResponseHeaderTimeoutMsec = 2
RequestTimeoutMsec = 3
MaxRetries = -1
MinWaitMsec = 4
MaxWaitMsec = 5
[blob]
valid_interval = 61
check_always = true
fetching_timeout_sec = 301
max_retries = 9
min_wait_msec = 31
max_wait_msec = 32
force_single_range_mode = true
max_span_verification_retries = -1
[directory_cache]
max_lru_cache_entry = 11
max_cache_fds = 11
sync_add = true
direct = false
[fuse]
attr_timeout = 2
entry_timeout = 2
negative_timeout = 2
log_fuse_operations = true
[background_fetch]
disable = true
silence_period_msec = 1
fetch_period_msec = 1
max_queue_size = 1
drop_policy = "oldest"
emit_metric_period_sec = 1
[content_store]
type = "containerd"
containerd_address = "/run/x.sock"
[prefetch]
enable = true
max_concurrency = 1
[pull_modes.soci_v1]
enable = true
[pull_modes.soci_v2]
enable = false
[pull_modes.parallel_pull_unpack]
enable = true
experimental_parallel_pull_as_fallback = true
max_concurrent_downloads = 1
max_concurrent_downloads_per_image = 1
concurrent_download_chunk_size = "8mb"
max_concurrent_unpacks = 1
max_concurrent_unpacks_per_image = 2
discard_unpacked_layers = true
[pull_modes.parallel_pull_unpack.decompress_streams.gzip]
path = "/usr/bin/unpigz"
args = ["-d"]
[kubeconfig_keychain]
enable_keychain = true
kubeconfig_path = "/etc/k"
[cri_keychain]
enable_keychain = true
image_service_path = "/run/y.sock"
[resolver]
auth_client_ttl_sec = 1
enable_auth_client_sharing = true
[[resolver.host."registry.test".mirrors]]
host = "mirror.test"
insecure = true
request_timeout_sec = 5
[[resolver.host."registry.test".mirrors]]
host = "other.test"
request_timeout_sec = -1
[snapshotter]
min_layer_size = 100
allow_invalid_mounts_on_restart = true
`

// TestIncumbentKeys holds that every key is known, and has an effect or a warning.
func TestIncumbentKeys(t *testing.T) {
	c, warnings, err := Parse([]byte(incumbentKeys))
	if err != nil {
		t.Fatal(err)
	}
	warned := make(map[string]bool)
	for _, w := range warnings {
		if w.Reason == "unknown key" {
			t.Errorf("%s is unknown", w.Key)
		}
		warned[w.Key] = true
	}
	for _, k := range []string{"disable_verification", "kubeconfig_keychain.enable_keychain", "pull_modes.parallel_pull_unpack.decompress_streams.gzip.path"} {
		if !warned[k] {
			t.Errorf("no warning about %s: %v", k, warnings)
		}
	}
	for _, k := range []string{"max_concurrency", "http.MaxRetries", "pull_modes.soci_v1.enable", "resolver.host.registry.test.mirrors", "snapshotter.min_layer_size"} {
		if warned[k] {
			t.Errorf("warning about %s, which has an effect", k)
		}
	}
	def, err := flatten(Default())
	if err != nil {
		t.Fatal(err)
	}
	have, err := flatten(c)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range def {
		if reflect.DeepEqual(have[k], v) {
			t.Errorf("%s is not in the test, or was not decoded", k)
		}
	}
}

// TestOptions holds what the keys do.
func TestOptions(t *testing.T) {
	c, _, err := Parse([]byte(incumbentKeys))
	if err != nil {
		t.Fatal(err)
	}
	o := c.Options()
	if !o.FS.Debug || o.MinLayerSize != 100 || o.LookupTimeout != 7*time.Second || o.Workers != unlimited || o.Spans.Retries != 3 {
		t.Errorf("snapshotter options are %+v", o)
	}
	if fmt.Sprint(o.Discover) != fmt.Sprint([]index.Version{index.V1}) {
		t.Errorf("Discover is %v", o.Discover)
	}
	if o.Background != (snapshotter.Background{Disable: true, Silence: time.Millisecond, MaxQueue: 1, DropOldest: true}) {
		t.Errorf("background options are %+v", o.Background)
	}
	r := c.Registry()
	if r.Retry.Max != -1 || r.Retry.MinWait != 4*time.Millisecond || r.Timeouts.Dial != time.Millisecond || r.Timeouts.Total != 3*time.Millisecond {
		t.Errorf("registry options are %+v", r)
	}
	ms := r.Mirrors("registry.test")
	if len(ms) != 2 || ms[0].Host != "mirror.test" || !ms[0].PlainHTTP || ms[0].Timeout != 5*time.Second || ms[1].Timeout != 0 {
		t.Errorf("mirrors are %+v", ms)
	}
	if ms := r.Mirrors("elsewhere.test"); ms != nil {
		t.Errorf("mirrors of another host are %+v", ms)
	}
	if d := Default().Options(); d.Workers != 100 || fmt.Sprint(d.Discover) != fmt.Sprint([]index.Version{index.V2}) {
		t.Errorf("default options are %+v", d)
	} else if d.Background != (snapshotter.Background{MaxQueue: 300}) {
		t.Errorf("default background options are %+v", d.Background)
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, file, err string
		warnings        string
	}{
		{name: "empty"},
		{name: "unknown keys", file: "nonsense = 1\n[also]\nx = 1\n[http]\nnope = 2\n", warnings: "nonsense also http.nope"},
		{name: "defaults written out are no news", file: "disable_verification = false\n[background_fetch]\ndisable = false\n"},
		{name: "without effect", file: "[background_fetch]\nfetch_period_msec = 1\n", warnings: "background_fetch.fetch_period_msec"},
		{name: "drop policy", file: "[background_fetch]\ndrop_policy = \"some\"\n", err: "background_fetch.drop_policy"},
		{name: "wrong type", file: "debug = \"yes\"\n", err: "line 1, column 9"},
		{name: "syntax", file: "debug =\n", err: "line 1"},
		{name: "negative timeout", file: "mount_timeout_sec = -1\n", err: "mount_timeout_sec: -1 is out of range"},
		{name: "huge timeout", file: "[http]\nDialTimeoutMsec = 9223372036854775807\n", err: "http.DialTimeoutMsec"},
		{name: "negative size", file: "[snapshotter]\nmin_layer_size = -1\n", err: "snapshotter.min_layer_size"},
		{name: "network", file: "metrics_network = \"udp\"\n", err: "metrics_network"},
		{name: "mirror", file: "[[resolver.host.\"a\".mirrors]]\ninsecure = true\n", err: "host is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, warnings, err := Parse([]byte(c.file))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error is %v, want %q", err, c.err)
				}
				return
			}
			var keys []string
			for _, w := range warnings {
				keys = append(keys, w.Key)
			}
			if err != nil || strings.Join(keys, " ") != c.warnings {
				t.Errorf("warnings are %v, error %v, want %q", keys, err, c.warnings)
			}
		})
	}
}

// TestDefaultFile holds that the file in deploy is what `config default` prints
// and means the default.
func TestDefaultFile(t *testing.T) {
	want, err := Default().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("..", "..", "..", "..", "deploy", "config.toml")
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s differs from `soci-snapshotter-grpc config default`", path)
	}
	c, warnings, err := Load(path)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("warnings %v, error %v", warnings, err)
	}
	if !reflect.DeepEqual(c, Default()) {
		t.Errorf("the default file is %+v", c)
	}
}

// TestDeploy holds that containerd's drop-ins are TOML and lead to our socket.
func TestDeploy(t *testing.T) {
	for _, name := range []string{"1.7.toml", "2.x.toml"} {
		p, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "deploy", "containerd", name))
		if err != nil {
			t.Fatal(err)
		}
		var f struct {
			Version int
			Proxy   map[string]struct {
				Type, Address string
				Exports       map[string]string
			} `toml:"proxy_plugins"`
		}
		if err := toml.Unmarshal(p, &f); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		soci := f.Proxy["soci"]
		if f.Version < 2 || soci.Type != "snapshot" || soci.Address != "/run/soci-snapshotter-grpc/soci-snapshotter-grpc.sock" || soci.Exports["root"] != "/var/lib/soci-snapshotter-grpc" {
			t.Errorf("%s is %+v", name, f)
		}
	}
}

func TestLoadMissing(t *testing.T) {
	if _, _, err := Load(filepath.Join(t.TempDir(), "none.toml")); !os.IsNotExist(err) && !strings.Contains(fmt.Sprint(err), "no such file") {
		t.Errorf("error is %v", err)
	}
}

// TestHolder holds what [holder] means, and that it is not written out where it means nothing.
func TestHolder(t *testing.T) {
	for _, c := range []struct {
		file    string
		guard   time.Duration
		disable bool
		err     string
	}{
		{file: "", guard: time.Minute},
		{file: "[holder]\neio_after_sec = 5\n", guard: 5 * time.Second},
		{file: "[holder]\neio_after_sec = 0\ndisable = true\n", guard: -1, disable: true},
		{file: "[holder]\neio_after_sec = -1\n", err: "holder.eio_after_sec: -1 is out of range"},
	} {
		got, warnings, err := Parse([]byte(c.file))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: error is %v", c.file, err)
			}
			continue
		}
		if err != nil || len(warnings) > 0 {
			t.Fatalf("%q: warnings %v, error %v", c.file, warnings, err)
		}
		if o := got.HolderOptions(); o.Guard != c.guard || got.Holder.Disable != c.disable {
			t.Errorf("%q: guard %v, disabled %v", c.file, o.Guard, got.Holder.Disable)
		}
		p, err := got.Marshal()
		if err != nil || strings.Contains(string(p), "holder") != (c.file != "") {
			t.Errorf("%q is written as %s, %v", c.file, p, err)
		}
	}
}
