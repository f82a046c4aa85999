// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"

	introspection "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/pelletier/go-toml/v2"
)

// pluginName is what containerd's configuration calls the snapshotter.
const pluginName = "soci"

// maxDump bounds containerd's configuration, in bytes.
const maxDump = 4 << 20

const doPlugin = "add the plugin to containerd's configuration (deploy/containerd) and restart containerd"

// containerd asks containerd about itself.
func (d *doctor) containerd(ctx context.Context) []finding {
	c, err := d.env.containerd(ctx)
	if err != nil {
		f := unseen("containerd", err)
		if f.Do == "" {
			f.Status, f.Do = statusFail, "start containerd, or name its socket with --address"
		}
		return []finding{f}
	}
	v, err := c.Version(ctx)
	if err != nil {
		return []finding{bad(statusFail, "containerd", "look at containerd's log", "at %s does not tell its version: %v", d.env.address, err)}
	}
	found := []finding{ok("containerd", "%s at %s", v.Version, d.env.address)}
	all, err := c.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1")
	if err != nil {
		return append(found, bad(statusUnseen, "plugin", "", "containerd does not tell its plugins: %v", err))
	}
	return append(found, d.plugin(v.Version, all.Plugins)...)
}

// plugin judges what containerd of the version says of its snapshotters.
func (d *doctor) plugin(version string, all []*introspection.Plugin) []finding {
	var p *introspection.Plugin
	for _, q := range all {
		if q.ID == pluginName || q.Exports["address"] == d.snapshotter {
			p = q
		}
	}
	if p == nil {
		return []finding{bad(statusFail, "plugin", doPlugin, "containerd has no snapshotter %q", pluginName)}
	}
	if p.InitErr != nil {
		return []finding{bad(statusFail, "plugin", "look at containerd's log", "containerd could not start %s: %s", p.ID, p.InitErr.Message)}
	}
	if a := p.Exports["address"]; a != "" && a != d.snapshotter {
		return []finding{bad(statusFail, "plugin", "correct proxy_plugins."+p.ID+".address, or name the socket with --snapshotter-address",
			"containerd asks %s, not %s", a, d.snapshotter)}
	}
	found := []finding{ok("plugin", "containerd has it as %s", p.ID)}
	if major, minor, _ := versionNumbers(version); major > 2 || major == 2 && minor >= 1 {
		const key = "enable_remote_snapshot_annotations"
		if p.Exports[key] == "true" {
			found = append(found, ok("transfer", "the transfer service tells %s what it pulls", p.ID))
		} else {
			found = append(found, bad(statusWarn, "transfer", "set "+key+` = "true" in proxy_plugins.`+p.ID+".exports and restart containerd",
				"the transfer service does not tell %s what it pulls: nothing it pulls is lazy", p.ID))
		}
		if p.Exports["root"] == "" {
			found = append(found, bad(statusWarn, "exports", "set root in proxy_plugins."+p.ID+".exports and restart containerd",
				"kubelet does not know where %s has its files, and does not count them", p.ID))
		}
	}
	return found
}

// containerdConfig looks at the configuration that containerd would start with.
func (d *doctor) containerdConfig(ctx context.Context) []finding {
	const name = "containerd-config"
	path, err := exec.LookPath("containerd")
	if err != nil {
		return []finding{bad(statusUnseen, name, "run on the host", "%v", err)}
	}
	var out, stderr cutBuffer
	cmd := exec.CommandContext(ctx, path, "config", "dump")
	cmd.Stdout, cmd.Stderr = &out, &stderr
	cmd.WaitDelay = checkGrace / 2
	if err := cmd.Run(); err != nil {
		return []finding{bad(statusUnseen, name, "", "%s config dump: %v: %s", path, err, stderr.String())}
	}
	return judgeConfig(out.Bytes(), d.snapshotter)
}

// cutBuffer keeps the first maxDump bytes of what is written to it.
type cutBuffer struct{ bytes.Buffer }

func (b *cutBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxDump {
		return 0, errors.New("too much output")
	}
	return b.Buffer.Write(p)
}

// judgeConfig judges containerd's configuration file. What is wrong there is a warning:
// the containerd that runs may have been started with another one, and says itself
// whether it has the plugin.
func judgeConfig(dump []byte, address string) []finding {
	const name = "containerd-config"
	var c map[string]any
	if err := toml.Unmarshal(dump, &c); err != nil {
		return []finding{bad(statusUnseen, name, "", "containerd config dump: %v", err)}
	}
	var plugin string
	proxies, _ := dig(c, "proxy_plugins").(map[string]any)
	for id := range proxies {
		if a, _ := dig(proxies, id, "address").(string); id == pluginName || a == address {
			plugin = id
		}
	}
	if plugin == "" {
		return []finding{bad(statusWarn, name, doPlugin, "the file has no proxy_plugins.%s", pluginName)}
	}
	if a, _ := dig(proxies, plugin, "address").(string); a != address {
		return []finding{bad(statusWarn, name, "correct the address", "proxy_plugins.%s has the address %q, not %s", plugin, a, address)}
	}
	found := []finding{ok(name, "proxy_plugins.%s is there", plugin)}
	if images, has := dig(c, "plugins", "io.containerd.cri.v1.images").(map[string]any); has {
		return append(found, criImages(c, images, plugin)...)
	}
	if cri, has := dig(c, "plugins", "io.containerd.grpc.v1.cri", "containerd").(map[string]any); has {
		return append(found, criSnapshotter(cri, plugin, `plugins."io.containerd.grpc.v1.cri".containerd`))
	}
	return found
}

// criSnapshotter judges a table of CRI that names a snapshotter.
func criSnapshotter(t map[string]any, plugin, table string) finding {
	s, _ := t["snapshotter"].(string)
	switch {
	case s != plugin:
		return bad(statusWarn, "cri", fmt.Sprintf("set snapshotter = %q in %s", plugin, table), "Kubernetes' images are not lazy: its snapshotter is %q", s)
	case t["disable_snapshot_annotations"] == true:
		return bad(statusWarn, "cri", "set disable_snapshot_annotations = false in "+table, "%s is not told what Kubernetes pulls: nothing of it is lazy", plugin)
	}
	return ok("cri", "Kubernetes pulls with %s", plugin)
}

// criImages judges CRI and the transfer service of containerd 2.
func criImages(c, images map[string]any, plugin string) []finding {
	const table = "plugins.'io.containerd.cri.v1.images'"
	local, decides := images["use_local_image_pull"].(bool)
	if !decides || local { // 2.0 has no other way
		return []finding{criSnapshotter(images, plugin, table)}
	}
	shown := map[string]any{"snapshotter": images["snapshotter"]} // the other key is for local pulls
	found := []finding{criSnapshotter(shown, plugin, table)}
	entries, _ := dig(c, "plugins", "io.containerd.transfer.v1.local", "unpack_config").([]any)
	for _, e := range entries {
		if t, _ := e.(map[string]any); t["snapshotter"] == plugin {
			return append(found, ok("unpack", "the transfer service unpacks into %s", plugin))
		}
	}
	return append(found, bad(statusWarn, "unpack", "add an unpack_config for "+plugin+" to plugins.'io.containerd.transfer.v1.local' (deploy/containerd/2.x.toml)",
		"the transfer service does not unpack into %s", plugin))
}

// dig returns what is below the keys, nil if there is nothing.
func dig(v any, keys ...string) any {
	for _, k := range keys {
		t, _ := v.(map[string]any)
		v = t[k]
	}
	return v
}
