// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/fs/hold"
)

// The mount is looked at from child processes only: a process that uses its own
// FUSE file system can end up with all its threads waiting for itself.
const childEnv = "SEEKOCI_FS_TEST_CHILD"

func TestMain(m *testing.M) {
	if hold.Invoked(os.Args) {
		os.Exit(hold.Main())
	}
	if verb := os.Getenv(childEnv); verb != "" {
		if err := child(verb, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(verb string, args []string) error {
	switch verb {
	case "dump":
		d, err := dump(args[0])
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(d)
	case "direct": // read without the page cache, which is what the kernel interrupts
		fd, err := unix.Open(args[0], unix.O_RDONLY|unix.O_DIRECT, 0)
		if err != nil {
			return err
		}
		_, err = unix.Pread(fd, make([]byte, 4096), 0)
		return err
	case "crowd": // so many threads read without the page cache, each a page
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return crowd(args[0], n)
	case "stuck": // lists a directory into a page that has yet to be read
		return stuck(args[0], args[1])
	case "load": // a line with what it did and how long it took, for each line that the parent writes
		return load(args[0], args[1])
	case "daemon": // mounts, and waits to be killed
		f, err := Mount(args[0], Options{StateDir: args[1]})
		if err != nil {
			return err
		}
		fmt.Println("mounted")
		<-f.served
		return nil
	case "serve": // mounts with a holder, serves layers and waits for the end of its input
		return serveLayers(args[0], args[1])
	case "wait": // waits for an answer, in one of five ways
		return waitFor(args[0], args[1])
	case "hold": // a line for each read that the parent asks for
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		fmt.Println("open")
		var line string
		if _, err := fmt.Scanln(&line); err != nil {
			return err
		}
		b := make([]byte, 1<<20)
		n, err := f.ReadAt(b, 0)
		if n == 0 {
			return err
		}
		fmt.Printf("%x\n", sha256.Sum256(b[:n]))
		return nil
	}
	return fmt.Errorf("unknown verb %q", verb)
}

// stuck lists dir into memory that is a mapping of file.
func stuck(dir, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	_, err = unix.Getdents(fd, m)
	return err
}

// crowd reads n pages of a file at once, past the page cache, and prints their digests.
func crowd(path string, n int) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	sums := make([]string, n)
	var g errgroup.Group
	for i := range n {
		g.Go(func() error {
			b := make([]byte, 4096)
			if _, err := unix.Pread(fd, b, int64(i)*4096); err != nil {
				return fmt.Errorf("page %d: %w", i, err)
			}
			sums[i] = fmt.Sprintf("%x", sha256.Sum256(b))
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	fmt.Println(strings.Join(sums, "\n"))
	return nil
}

// command returns a child process.
func command(t testing.TB, verb string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	must(t, err)
	c := exec.CommandContext(t.Context(), exe, args...)
	c.Env = append(os.Environ(), childEnv+"="+verb, "GORACE=atexit_sleep_ms=0") // it would wait a second
	c.Stderr = os.Stderr
	return c
}

// mustDump returns what a child process sees below dir.
func mustDump(t testing.TB, dir string) map[string]seen {
	t.Helper()
	out, err := command(t, "dump", dir).Output()
	must(t, err)
	var d map[string]seen
	must(t, json.Unmarshal(out, &d))
	return d
}

// seen is all that a process can see of a file.
type seen struct {
	Mode, UID, GID uint32
	Nlink, Rdev    uint64
	Size, Sec      int64
	Nsec           int64
	Target, Sum    string
	Same           string            // the first path of the same inode
	Xattrs         map[string]string // hexadecimal
}

func dump(root string) (map[string]seen, error) {
	out := map[string]seen{}
	inos := map[[2]uint64]string{}
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		var st syscall.Stat_t
		if err := syscall.Lstat(p, &st); err != nil {
			return err
		}
		s := seen{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Nlink: uint64(st.Nlink), Rdev: uint64(st.Rdev), Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec, Xattrs: map[string]string{}}
		if e.Type() != fs.FileMode(st.Mode).Type() && e.IsDir() != (st.Mode&syscall.S_IFMT == syscall.S_IFDIR) {
			return fmt.Errorf("%s: listed as %v, is %o", p, e.Type(), st.Mode)
		}
		key := [2]uint64{uint64(st.Dev), st.Ino}
		if s.Same = inos[key]; s.Same == "" {
			s.Same, inos[key] = rel, rel
		}
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			s.Size, s.Sum = st.Size, fmt.Sprintf("%x", sha256.Sum256(b))
		case syscall.S_IFLNK:
			s.Size = st.Size
			if s.Target, err = os.Readlink(p); err != nil {
				return err
			}
		}
		if err := s.readXattrs(p); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		out[rel] = s
		return nil
	})
	return out, err
}

func (s *seen) readXattrs(p string) error {
	n, err := unix.Llistxattr(p, nil)
	if err != nil {
		return err
	}
	list := make([]byte, n)
	if n, err = unix.Llistxattr(p, list); err != nil {
		return err
	}
	for k := range bytes.SplitSeq(list[:n], []byte{0}) {
		if len(k) == 0 || strings.HasPrefix(string(k), "trusted.overlay.") && string(k) != opaqueTr {
			continue
		}
		val := make([]byte, 64<<10)
		m, err := unix.Lgetxattr(p, string(k), val)
		if err != nil {
			return err
		}
		s.Xattrs[string(k)] = fmt.Sprintf("%x", val[:m])
	}
	return nil
}
