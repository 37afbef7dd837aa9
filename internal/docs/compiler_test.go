package docs

import (
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// fragmentImports are the packages that a block without a package clause may use, by name.
var fragmentImports = map[string]string{
	"context":  "context",
	"errors":   "errors",
	"fmt":      "fmt",
	"log":      "log",
	"slog":     "log/slog",
	"http":     "net/http",
	"os":       "os",
	"signal":   "os/signal",
	"strconv":  "strconv",
	"strings":  "strings",
	"sync":     "sync",
	"syscall":  "syscall",
	"testing":  "testing",
	"time":     "time",
	"zmq4":     "github.com/pebbe/zmq4",
	"zmqgrace": "github.com/zmqgrace/zmqgrace",
}

// fragmentHead is what such a block finds declared.
const fragmentHead = `
var (
	ctx    context.Context
	err    error
	runner *zmqgrace.Runner
	socket *zmqgrace.Socket
	handle zmqgrace.Handler
)
`

// compiler type-checks code against what the go command has compiled.
type compiler struct {
	files    *token.FileSet
	packages types.Importer
}

func newCompiler(t *testing.T) *compiler {
	t.Helper()
	args := []string{"list", "-export", "-deps", "-f", "{{.ImportPath}}={{.Export}}", "."}
	for _, path := range fragmentImports {
		args = append(args, path)
	}
	list := exec.Command("go", args...)
	list.Dir = root
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("%v: %v", list, err)
	}
	exports := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), "=")
		exports[path] = file
	}
	open := func(path string) (io.ReadCloser, error) {
		file := exports[path]
		if file == "" {
			return nil, fmt.Errorf("%s is not among what blocks may import: quote a program of a module that has it", path)
		}
		return os.Open(file)
	}
	files := token.NewFileSet()
	return &compiler{files, importer.ForCompiler(files, "gc", open)}
}

// compile reports what is wrong with a block of Go.
func (c *compiler) compile(block string) error {
	source, whole := block, true
	if file, err := parser.ParseFile(c.files, "", block, parser.PackageClauseOnly); err != nil || file.Name == nil {
		source, whole = c.complete(block), false
	}
	file, err := parser.ParseFile(c.files, "block.go", source, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	var all []error
	config := types.Config{Importer: c.packages, Error: func(err error) {
		var known types.Error
		if errors.As(err, &known) && known.Soft && !whole {
			return // a fragment need not use what it declares
		}
		all = append(all, err)
	}}
	config.Check("block", c.files, []*ast.File{file}, nil)
	return errors.Join(all...)
}

// complete makes a fragment a file: one of declarations if it parses as such, else one with a function around it.
func (c *compiler) complete(fragment string) string {
	head := "package block\n\n"
	for name, path := range fragmentImports {
		head += fmt.Sprintf("import %s %q\n", name, path)
	}
	head += fragmentHead
	if declarations := head + fragment; c.parses(declarations) {
		return declarations
	}
	return head + "func _() {\n" + fragment + "}\n"
}

func (c *compiler) parses(source string) bool {
	_, err := parser.ParseFile(c.files, "", source, parser.SkipObjectResolution)
	return err == nil
}
