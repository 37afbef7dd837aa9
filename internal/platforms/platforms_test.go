// Package platforms holds the library to the systems that the tests do not run on, as far as a machine without them can:
// it is type-checked for them, with the real binding and the standard library of that system. What is C is taken as given.
package platforms

import (
	"errors"
	"go/ast"
	"go/build"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/zmqgrace/zmqgrace"

// checker type-checks packages for one system. Those with cgo, which the go command leaves out where there is no C compiler
// for the system, it reads itself.
type checker struct {
	system   build.Context
	files    *token.FileSet
	standard types.Importer
	checked  map[string]*types.Package
}

// newChecker makes one for a system. The importer of sources knows no other context than build.Default.
func newChecker(t *testing.T, goos string) *checker {
	t.Helper()
	before := build.Default
	t.Cleanup(func() { build.Default = before })
	build.Default.GOOS, build.Default.GOARCH, build.Default.CgoEnabled = goos, "arm64", false
	c := &checker{system: build.Default, files: token.NewFileSet(), checked: make(map[string]*types.Package)}
	c.system.CgoEnabled = true
	c.standard = importer.ForCompiler(c.files, "source", nil)
	return c
}

func directory(path string) (string, error) {
	out, err := exec.Command("go", "list", "-f", "{{.Dir}}", path).Output()
	return strings.TrimSpace(string(out)), err
}

// Import implements [types.Importer].
func (c *checker) Import(path string) (*types.Package, error) {
	if !strings.Contains(path, ".") {
		return c.standard.Import(path)
	}
	if c.checked[path] == nil {
		dir, err := directory(path)
		if err != nil {
			return nil, err
		}
		if c.checked[path], _, err = c.check(path, dir); err != nil {
			return nil, err
		}
	}
	return c.checked[path], nil
}

// check also returns the names of the files that belong to the package on that system.
func (c *checker) check(path, dir string) (*types.Package, []string, error) {
	found, err := c.system.ImportDir(dir, 0)
	if err != nil {
		return nil, nil, err
	}
	names := append(found.GoFiles, found.CgoFiles...)
	var files []*ast.File
	for _, name := range names {
		file, err := parser.ParseFile(c.files, filepath.Join(dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, nil, err
		}
		files = append(files, file)
	}
	var all []error
	config := types.Config{Importer: c, FakeImportC: true, Error: func(err error) {
		if !c.aboutC(err) {
			all = append(all, err)
		}
	}}
	pkg, _ := config.Check(path, c.files, files, nil)
	return pkg, names, errors.Join(all...)
}

// aboutC reports whether an error is of a line with a name from C, or of a constant whose value is one. What that is on
// another system, only its compiler knows.
func (c *checker) aboutC(err error) bool {
	var at types.Error
	if !errors.As(err, &at) {
		return false
	}
	if strings.Contains(at.Msg, "constant unknown") {
		return true
	}
	position := c.files.Position(at.Pos)
	source, err := os.ReadFile(position.Filename)
	return err == nil && strings.Contains(strings.Split(string(source), "\n")[position.Line-1], "C.")
}

func TestTheLibraryTypeChecksOnEverySystem(t *testing.T) {
	for _, goos := range []string{"linux", "darwin", "windows", "freebsd"} {
		t.Run(goos, func(t *testing.T) {
			pkg, err := newChecker(t, goos).Import(module)
			if err != nil {
				t.Fatal(err)
			}
			if pkg.Scope().Lookup("New") == nil {
				t.Error("the package has no New")
			}
		})
	}
}

// The check itself is held to something: what a system does not have is found.
func TestWhatASystemDoesNotHaveIsFound(t *testing.T) {
	for goos, want := range map[string]string{"windows": "SIGUSR1", "linux": ""} {
		t.Run(goos, func(t *testing.T) {
			_, _, err := newChecker(t, goos).check("testdata", "testdata")
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("the error is %v, want %q", err, want)
			}
		})
	}
}
