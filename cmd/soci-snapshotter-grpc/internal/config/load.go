// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

const maxFileSize = 1 << 20

// Warning says that a key of the file has no effect.
type Warning struct {
	Key    string // dotted
	Reason string
}

// Load reads the file at path. The error matches os.ErrNotExist if there is none.
func Load(path string) (Config, []Warning, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, nil, fmt.Errorf("load config: %w", err)
	}
	defer f.Close()
	p, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err == nil && len(p) > maxFileSize {
		err = fmt.Errorf("more than %d bytes", maxFileSize)
	}
	if err != nil {
		return Config{}, nil, fmt.Errorf("load config %s: %w", path, err)
	}
	c, warnings, err := Parse(p)
	if err != nil {
		return Config{}, nil, fmt.Errorf("load config %s: %w", path, err)
	}
	return c, warnings, nil
}

// Parse decodes and validates the contents of a file.
func Parse(p []byte) (Config, []Warning, error) {
	c := Default()
	var warnings []Warning
	d := toml.NewDecoder(bytes.NewReader(p)).DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		var unknown *toml.StrictMissingError
		if !errors.As(err, &unknown) {
			return c, nil, located(err)
		}
		for _, e := range unknown.Errors {
			warnings = append(warnings, Warning{strings.Join(e.Key(), "."), "unknown key"})
		}
	}
	idle, err := c.idle()
	if err != nil {
		return c, nil, err
	}
	for _, k := range idle {
		warnings = append(warnings, Warning{k, "accepted, but without effect in this version"})
	}
	return c, warnings, c.Validate()
}

// located adds to a TOML error where it is.
func located(err error) error {
	var de *toml.DecodeError
	if !errors.As(err, &de) {
		return err
	}
	line, col := de.Position()
	if len(de.Key()) > 0 {
		return fmt.Errorf("line %d, column %d: key %s: %w", line, col, strings.Join(de.Key(), "."), err)
	}
	return fmt.Errorf("line %d, column %d: %w", line, col, err)
}

// Marshal encodes c as a file.
func (c Config) Marshal() ([]byte, error) {
	var b bytes.Buffer
	e := toml.NewEncoder(&b)
	e.SetIndentTables(false)
	if err := e.Encode(c); err != nil {
		return nil, fmt.Errorf("encode config: %w", err)
	}
	return b.Bytes(), nil
}

// honoured lists the keys, or beginnings of keys, that have an effect, or whose
// effect is what the daemon does anyway.
func honoured() []string {
	return []string{
		"debug", "max_concurrency", "mount_timeout_sec",
		"metrics_address", "metrics_network", "no_prometheus", "debug_address",
		"http.", "blob.max_span_verification_retries",
		"fuse.log_fuse_operations",
		"background_fetch.disable", "background_fetch.silence_period_msec",
		"background_fetch.max_queue_size", "background_fetch.drop_policy", "background_fetch.emit_metric_period_sec",
		"prefetch.enable",
		"pull_modes.soci_v1.", "pull_modes.soci_v2.",
		"resolver.host.",
		"snapshotter.", "holder.", "security.", "cache.",
		"skip_check_snapshotter_supported",
	}
}

// idle returns the keys that differ from their default and have no effect.
func (c Config) idle() ([]string, error) {
	have, err := flatten(c)
	if err != nil {
		return nil, err
	}
	def, err := flatten(Default())
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, k := range slices.Sorted(maps.Keys(have)) {
		if reflect.DeepEqual(have[k], def[k]) {
			continue
		}
		if !slices.ContainsFunc(honoured(), func(h string) bool { return k == h || strings.HasSuffix(h, ".") && strings.HasPrefix(k, h) }) {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// flatten returns the values of c by dotted key.
func flatten(c Config) (map[string]any, error) {
	p, err := c.Marshal()
	if err != nil {
		return nil, err
	}
	var tree map[string]any
	if err := toml.Unmarshal(p, &tree); err != nil {
		return nil, fmt.Errorf("decode config: %w", err)
	}
	flat := make(map[string]any)
	var walk func(prefix string, t map[string]any)
	walk = func(prefix string, t map[string]any) {
		for k, v := range t {
			if sub, ok := v.(map[string]any); ok {
				walk(prefix+k+".", sub)
			} else {
				flat[prefix+k] = v
			}
		}
	}
	walk("", tree)
	return flat, nil
}
