// SPDX-License-Identifier: Apache-2.0

// Package cmd_test holds the rules of the whole tree: who may import whom,
// and that what is exported is documented.
package cmd_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/seekoci/seekoci"

// pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath string
	Dir        string
	Name       string
	Imports    []string
	CgoFiles   []string
	GoFiles    []string
	Standard   bool
}

func list(t *testing.T) []pkg {
	t.Helper()
	c := exec.Command("go", "list", "-json=ImportPath,Dir,Name,Imports,CgoFiles,GoFiles,Standard", "./...")
	c.Dir = ".."
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		pkgs = append(pkgs, p)
	}
}

// owner is the package whose rule holds for path: an internal, test or command
// package obeys the rule of the directory it lies under.
func owner(path string) string {
	rel := strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
	if strings.HasPrefix(rel, "fs/span") {
		return "fs/span"
	}
	top, _, _ := strings.Cut(rel, "/")
	return top
}

// internal imports: owner → owners it may import. cmd and benchmark may import anyone.
var mayImport = map[string][]string{
	"ztoc":        {},
	"registry":    {},
	"index":       {"ztoc"},
	"fs/span":     {"ztoc"},
	"fs":          {"ztoc", "fs/span"},
	"snapshotter": {"ztoc", "index", "fs", "fs/span", "registry"},
}

// external imports: owner → module path prefixes it may import beside std.
var mayUse = map[string][]string{
	"ztoc":     {"github.com/klauspost/compress/flate", "github.com/klauspost/compress/gzip", "github.com/klauspost/compress/huff0", "github.com/klauspost/compress/zstd", "github.com/opencontainers/go-digest", "github.com/google/flatbuffers", "golang.org/x/sys"},
	"registry": {"oras.land/oras-go/v2", "github.com/opencontainers/", "github.com/containerd/errdefs", "github.com/distribution/reference"},
	"index":    {"github.com/opencontainers/", "github.com/containerd/errdefs", "github.com/containerd/platforms", "golang.org/x/sync"},
	"fs/span":  {"github.com/opencontainers/go-digest", "golang.org/x/sync", "golang.org/x/sys"},
	"fs":       {"github.com/hanwen/go-fuse/v2", "golang.org/x/sync", "golang.org/x/sys"},
}

func hasPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// TestImports holds the import rules: imports go downwards only, the leaf
// packages stay free of one another's worlds, nothing uses cgo.
func TestImports(t *testing.T) {
	pkgs := list(t)
	if len(pkgs) < 6 {
		t.Fatalf("go list found %d packages", len(pkgs))
	}
	for _, p := range pkgs {
		own := owner(p.ImportPath)
		if len(p.CgoFiles) > 0 {
			t.Errorf("%s uses cgo: %v", p.ImportPath, p.CgoFiles)
		}
		for _, imp := range p.Imports {
			checkImport(t, p, own, imp)
		}
	}
}

func checkImport(t *testing.T, p pkg, own, imp string) {
	t.Helper()
	if imp == "testing" && !strings.HasSuffix(p.Name, "test") {
		t.Errorf("%s imports testing: only _test.go files and *test packages may", p.ImportPath)
	}
	if own == "cmd" || own == "benchmark" {
		if own == "cmd" && strings.HasPrefix(imp, module+"/benchmark") {
			t.Errorf("%s imports %s: nothing imports benchmark", p.ImportPath, imp)
		}
		return
	}
	if strings.HasPrefix(imp, module) {
		to := owner(imp)
		if to != own && !slices.Contains(mayImport[own], to) {
			t.Errorf("%s may not import %s", p.ImportPath, imp)
		}
		return
	}
	first, _, _ := strings.Cut(imp, "/")
	if own == "snapshotter" || !strings.Contains(first, ".") {
		return // the joining package, or std
	}
	if !hasPrefix(imp, mayUse[own]) {
		t.Errorf("%s may not use %s: see mayUse in cmd/arch_test.go", p.ImportPath, imp)
	}
}

// TestDocumented holds that every package and every exported symbol of ours says what it is.
func TestDocumented(t *testing.T) {
	for _, p := range list(t) {
		if strings.Contains(p.ImportPath, "/internal/flat") || len(p.GoFiles) == 0 {
			continue // generated
		}
		fset := token.NewFileSet()
		var files []*ast.File
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
		d, err := doc.NewFromFiles(fset, files, p.ImportPath)
		if err != nil {
			t.Fatal(err)
		}
		if d.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
		checkSymbols(t, p.ImportPath, d)
	}
}

func checkSymbols(t *testing.T, path string, d *doc.Package) {
	t.Helper()
	want := func(name, text string) {
		if ast.IsExported(name) && strings.TrimSpace(text) == "" {
			t.Errorf("%s.%s is not documented", path, name)
		}
	}
	values := func(vs []*doc.Value) {
		for _, v := range vs {
			if v.Doc != "" {
				continue // one comment may speak for the block
			}
			for _, s := range v.Decl.Specs {
				if vs, ok := s.(*ast.ValueSpec); ok {
					want(vs.Names[0].Name, vs.Doc.Text()+vs.Comment.Text())
				}
			}
		}
	}
	values(d.Consts)
	values(d.Vars)
	for _, f := range d.Funcs {
		want(f.Name, f.Doc)
	}
	for _, typ := range d.Types {
		want(typ.Name, typ.Doc)
		values(typ.Consts)
		values(typ.Vars)
		for _, f := range typ.Funcs {
			want(f.Name, f.Doc)
		}
		if !ast.IsExported(typ.Name) {
			continue
		}
		for _, m := range typ.Methods {
			want(typ.Name+"."+m.Name, m.Doc)
		}
	}
}
