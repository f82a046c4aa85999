// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Memory is what a process holds in memory, in bytes.
type Memory struct {
	Resident  int64
	Peak      int64 // most that was resident so far
	Anonymous int64 // of Resident, what is not a file's
}

// SnapshotterMemory asks the kernel about the snapshotter.
func (n *Node) SnapshotterMemory() (Memory, error) {
	if n.snapshotter == nil {
		return Memory{}, errors.New("memory of the snapshotter: it does not run")
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.snapshotter.Pid()))
	if err != nil {
		return Memory{}, fmt.Errorf("memory of the snapshotter: %w", err)
	}
	m, err := parseStatus(string(status))
	if err != nil {
		return Memory{}, fmt.Errorf("memory of the snapshotter: %w", err)
	}
	return m, nil
}

// parseStatus reads the sizes in a /proc/PID/status.
func parseStatus(status string) (Memory, error) {
	var m Memory
	want := map[string]*int64{"VmRSS": &m.Resident, "VmHWM": &m.Peak, "RssAnon": &m.Anonymous}
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, ":")
		to := want[key]
		if to == nil {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return Memory{}, fmt.Errorf("process status: %s: %w", key, err)
		}
		*to = kib << 10
		delete(want, key)
	}
	for key := range want {
		return Memory{}, fmt.Errorf("process status: it has no %s", key)
	}
	return m, nil
}

// SetReadAhead sets how far the kernel reads ahead in lazy layers; 0 means not at all:
// it then asks for just the pages that are touched.
func (n *Node) SetReadAhead(kib int) error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	device, err := fuseBelow(string(table), n.SnapshotterRoot())
	if err != nil {
		return fmt.Errorf("set readahead of lazy layers: %w", err)
	}
	file := filepath.Join("/sys/class/bdi", device, "read_ahead_kb")
	if err := os.WriteFile(file, []byte(strconv.Itoa(kib)), 0o644); err != nil {
		return fmt.Errorf("set readahead of lazy layers: %w", err)
	}
	return nil
}

// fuseBelow is the device, MAJOR:MINOR, of the FUSE mount below dir in a mountinfo.
func fuseBelow(mountinfo, dir string) (string, error) {
	for line := range strings.Lines(mountinfo) {
		// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
		mount, source, ok := strings.Cut(line, " - ")
		fields := strings.Fields(mount)
		if !ok || len(fields) < 5 {
			continue
		}
		if strings.HasPrefix(source, "fuse") && strings.HasPrefix(fields[4], dir+"/") {
			return fields[2], nil
		}
	}
	return "", fmt.Errorf("no FUSE file system is mounted below %s", dir)
}
