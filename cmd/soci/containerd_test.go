// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/seekoci/seekoci/cmd/internal/store"
	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/registry/registrytest"
)

// startTimeout bounds the start of a server, and what the stories ask of it.
const startTimeout = time.Minute

// TestContainerd runs the stories that need containerd, each in a namespace of its own.
func TestContainerd(t *testing.T) {
	address := startContainerd(t)
	dir := "testdata/containerd"
	testscript.Run(t, testscript.Params{Dir: dir, Cmds: nodeCommands(), RequireExplicitExec: true, Setup: nodeSetup(address, "")})
}

// TestContainerdGolden runs those about the golden image.
func TestContainerdGolden(t *testing.T) {
	gold := golden(t)
	address := startContainerd(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/containerd-golden", Cmds: nodeCommands(), RequireExplicitExec: true, Setup: nodeSetup(address, gold),
	})
}

// node is the containerd of a story.
type node struct {
	ctx    context.Context // of the story, with its namespace
	client *containerd.Client
	stuck  chan struct{} // gets one when a request is made that is not answered
}

const nodeKey = "node"

func nodeOf(ts *testscript.TestScript) *node { return ts.Value(nodeKey).(*node) }

func nodeSetup(address, gold string) func(env *testscript.Env) error {
	return func(env *testscript.Env) error {
		if err := setup(env); err != nil {
			return err
		}
		ns := "t" + filepath.Base(env.WorkDir)
		env.Setenv("CONTAINERD_ADDRESS", address)
		env.Setenv("CONTAINERD_NAMESPACE", ns)
		env.Setenv("DOCKER_CONFIG", filepath.Join(env.WorkDir, "docker"))
		env.Setenv("GOLDEN", gold)
		c, err := containerd.New(address)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), ns), 5*startTimeout)
		env.Defer(func() {
			cancel()
			c.Close()
		})
		env.Values[nodeKey] = &node{ctx: ctx, client: c, stuck: make(chan struct{}, 1)}
		return nil
	}
}

// startContainerd starts a private containerd and returns its address.
func startContainerd(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("containerd needs root")
	}
	bin, err := exec.LookPath("containerd")
	if err != nil {
		t.Skip("containerd is not on PATH")
	}
	dir, err := os.MkdirTemp("", "soci-ctd-") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	address := filepath.Join(dir, "c.sock")
	conf := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n"+
		"[grpc]\naddress = %q\n[ttrpc]\naddress = %q\n", filepath.Join(dir, "root"), filepath.Join(dir, "state"), address, address+".ttrpc")
	name := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(name, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	cmd := exec.Command(bin, "--config", name, "--log-level", "warn")
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminate(cmd) })
	c, err := containerd.New(address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	if ok, err := c.IsServing(ctx); err != nil || !ok {
		terminate(cmd)
		t.Fatalf("containerd does not serve: %v\n%s", err, &log)
	}
	return address
}

// terminate ends a server and waits for it.
func terminate(cmd *exec.Cmd) {
	cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
	cmd.Wait()                          //nolint:errcheck // its status does not matter
}

// nodeCommands are the words of the stories with containerd.
func nodeCommands() map[string]func(ts *testscript.TestScript, neg bool, args []string) {
	all := map[string]func(ts *testscript.TestScript, neg bool, args []string){
		"import":      importImage,
		"deleteimage": deleteImage,
		"gc":          collect,
		"hasblob":     hasBlob,
		"idle":        idle,
		"setout":      setOut,
		"registry":    startRegistry,
		"pushimage":   pushImage,
		"referrer":    referrer,
		"awaitstuck":  awaitStuck,
		"imagelabel":  imageLabel,
		"learn":       learn,
	}
	for name, f := range commands {
		all[name] = f
	}
	return all
}

// import LAYOUT REF puts the image of an OCI layout into containerd.
func importImage(ts *testscript.TestScript, _ bool, args []string) {
	n := nodeOf(ts)
	src, err := store.OpenSource(ts.MkAbs(args[0]))
	ts.Check(err)
	defer src.Close()
	list, err := src.Images()
	ts.Check(err)
	ctx, done, err := n.client.WithLease(n.ctx)
	ts.Check(err)
	defer done(ctx) //nolint:errcheck // it expires
	st, err := store.NewStage(ctx, src, ts.Getenv("WORK"))
	ts.Check(err)
	defer st.Close()
	out := ts.MkAbs(".import.tar")
	ts.Check(st.WriteArchive(ctx, list[0], out))
	f, err := os.Open(out)
	ts.Check(err)
	defer os.Remove(out)
	defer f.Close()
	_, err = n.client.Import(ctx, f, containerd.WithAllPlatforms(true), containerd.WithIndexName("import"), containerd.WithSkipMissing())
	ts.Check(err)
	list[0].Annotations, list[0].Platform = nil, nil
	_, err = n.client.ImageService().Create(ctx, images.Image{Name: args[1], Target: list[0]})
	ts.Check(err)
	ts.Check(n.client.ImageService().Delete(ctx, "import"))
}

// deleteimage REF removes an image, and what nothing else needs.
func deleteImage(ts *testscript.TestScript, _ bool, args []string) {
	n := nodeOf(ts)
	ts.Check(n.client.ImageService().Delete(n.ctx, args[0], images.SynchronousDelete()))
}

// gc collects garbage.
func collect(ts *testscript.TestScript, _ bool, _ []string) {
	n := nodeOf(ts)
	l, err := n.client.LeasesService().Create(n.ctx, leases.WithRandomID())
	ts.Check(err)
	ts.Check(n.client.LeasesService().Delete(n.ctx, l, leases.SynchronousDelete))
}

// [!] hasblob DIGEST... demands that the content store has blobs.
func hasBlob(ts *testscript.TestScript, neg bool, args []string) {
	n := nodeOf(ts)
	for _, a := range args {
		_, err := n.client.ContentStore().Info(n.ctx, digest.Digest(a))
		if err != nil && !errdefs.IsNotFound(err) {
			ts.Fatalf("%s: %v", a, err)
		}
		if neg == (err == nil) {
			ts.Fatalf("blob %s: %v", a, err)
		}
	}
}

// idle demands that nothing half-written is in containerd.
func idle(ts *testscript.TestScript, _ bool, _ []string) {
	n := nodeOf(ts)
	ingests, err := n.client.ContentStore().ListStatuses(n.ctx)
	ts.Check(err)
	left, err := n.client.LeasesService().List(n.ctx)
	ts.Check(err)
	if len(ingests)+len(left) > 0 {
		ts.Fatalf("left behind: ingests %v, leases %v", ingests, left)
	}
}

// setout NAME... puts the words of the last standard output into the environment.
func setOut(ts *testscript.TestScript, _ bool, args []string) {
	words := strings.Fields(ts.ReadFile("stdout"))
	if len(words) != len(args) {
		ts.Fatalf("%d words for %v: %q", len(words), args, words)
	}
	for i, a := range args {
		ts.Setenv(a, words[i])
	}
}

// imagelabel REF KEY VALUE demands a label of an image.
func imageLabel(ts *testscript.TestScript, _ bool, args []string) {
	n := nodeOf(ts)
	img, err := n.client.ImageService().Get(n.ctx, args[0])
	ts.Check(err)
	if got := img.Labels[args[1]]; got != args[2] {
		ts.Fatalf("label %s of %s is %q, want %q", args[1], args[0], got, args[2])
	}
}

// registry KIND starts a registry and puts its address into REGISTRY: referrers
// (API, basic auth as alice:secret), noupload or nodownload (what we send, or
// anybody reads, is never answered), or docker (Debian's, without that API).
func startRegistry(ts *testscript.TestScript, _ bool, args []string) {
	n := nodeOf(ts)
	stuck := func(is func(*registrytest.Request) bool) registrytest.Options {
		return registrytest.Options{Hook: func(_ http.ResponseWriter, r *registrytest.Request) bool {
			if !is(r) {
				return false
			}
			select {
			case n.stuck <- struct{}{}:
			default:
			}
			<-r.Context().Done()
			return true
		}}
	}
	opts := registrytest.Options{Auth: registrytest.AuthBasic, Username: "alice", Password: "secret"}
	switch args[0] {
	case "noupload":
		opts = stuck(func(r *registrytest.Request) bool {
			return r.Kind == registrytest.KindUpload && strings.HasPrefix(r.Header.Get("User-Agent"), "soci/")
		})
	case "nodownload":
		opts = stuck(func(r *registrytest.Request) bool {
			return (r.Kind == registrytest.KindBlob || r.Kind == registrytest.KindRange) && r.Method == http.MethodGet
		})
	}
	switch args[0] {
	case "referrers", "noupload", "nodownload":
		s := registrytest.New(opts)
		ts.Defer(s.Close)
		ts.Setenv("REGISTRY", s.Host())
	case "docker":
		ts.Setenv("REGISTRY", startDockerRegistry(ts))
	default:
		ts.Fatalf("no registry %q", args[0])
	}
}

// startDockerRegistry starts Debian's docker-registry and returns its address.
func startDockerRegistry(ts *testscript.TestScript) string {
	conf := fmt.Sprintf("version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: \"127.0.0.1:0\"}\n", ts.MkAbs("registry"))
	ts.Check(os.WriteFile(ts.MkAbs("registry.yml"), []byte(conf), 0o600))
	cmd := exec.Command("docker-registry", "serve", ts.MkAbs("registry.yml"))
	log, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	found, drained := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(drained)
		defer close(found)
		for sc := bufio.NewScanner(log); sc.Scan(); {
			if _, addr, ok := strings.Cut(sc.Text(), "listening on "); ok {
				addr, _, _ = strings.Cut(addr, `"`)
				select {
				case found <- strings.TrimSpace(addr):
				default:
				}
			}
		}
	}()
	ts.Defer(func() {
		cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
		<-drained
		cmd.Wait() //nolint:errcheck // its status does not matter
	})
	select {
	case addr := <-found:
		if addr == "" {
			ts.Fatalf("docker-registry ended")
		}
		return addr
	case <-time.After(startTimeout):
		ts.Fatalf("docker-registry does not listen")
	}
	return ""
}

// pushimage REF pushes an image from containerd, as alice:secret.
func pushImage(ts *testscript.TestScript, _ bool, args []string) {
	n := nodeOf(ts)
	img, err := n.client.ImageService().Get(n.ctx, args[0])
	ts.Check(err)
	auth := docker.NewDockerAuthorizer(docker.WithAuthCreds(func(string) (string, string, error) { return "alice", "secret", nil }))
	ts.Check(n.client.Push(n.ctx, args[0], img.Target, containerd.WithResolver(docker.NewResolver(docker.ResolverOptions{
		Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchAllHosts), docker.WithAuthorizer(auth)),
	}))))
}

// referrer REF MANIFEST DIGEST demands that the registry lists the v1 index DIGEST
// of MANIFEST, and that all it lists is there.
func referrer(ts *testscript.TestScript, _ bool, args []string) {
	n := nodeOf(ts)
	c, err := registry.NewClient(registry.Options{Credential: func(context.Context, string) (registry.Credential, error) {
		return registry.Credential{Username: "alice", Password: "secret"}, nil
	}})
	ts.Check(err)
	defer c.Close()
	repo, err := c.Repository(args[0])
	ts.Check(err)
	subject, err := repo.Resolve(n.ctx, args[1])
	ts.Check(err)
	list, err := repo.Referrers(n.ctx, subject, index.MediaTypeV1)
	ts.Check(err)
	i := slices.IndexFunc(list, func(d ocispec.Descriptor) bool { return d.Digest.String() == args[2] })
	if i < 0 {
		ts.Fatalf("referrers of %s: %v", args[1], list)
	}
	x, _, err := index.Find(n.ctx, repo, subject.Digest, index.FindOptions{Digest: list[i].Digest})
	ts.Check(err)
	for _, d := range x.Layers {
		ok, err := repo.Exists(n.ctx, d)
		ts.Check(err)
		if !ok {
			ts.Fatalf("zTOC %s is not in the registry", d.Digest)
		}
	}
}

// awaitstuck waits for the first request that is not answered.
func awaitStuck(ts *testscript.TestScript, _ bool, _ []string) {
	select {
	case <-nodeOf(ts).stuck:
	case <-time.After(startTimeout):
		ts.Fatalf("no request came")
	}
}
