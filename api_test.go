package zmqgrace

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// parseSources reads the files of this package that are no tests.
func parseSources(t *testing.T) (*token.FileSet, []*ast.File) {
	t.Helper()
	names, err := filepath.Glob("*.go")
	must(t, err)
	files := token.NewFileSet()
	var sources []*ast.File
	for _, name := range names {
		if !strings.HasSuffix(name, "_test.go") {
			file, err := parser.ParseFile(files, name, nil, parser.SkipObjectResolution)
			must(t, err)
			sources = append(sources, file)
		}
	}
	return files, sources
}

// exportedFunctions are the functions and methods that a user can call, by the names that their examples have.
func exportedFunctions(t *testing.T) map[string]bool {
	t.Helper()
	_, sources := parseSources(t)
	names := make(map[string]bool)
	for _, file := range sources {
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || !f.Name.IsExported() {
				continue
			}
			if f.Recv == nil {
				names[f.Name.Name] = true
			} else if typ := receiver(f); ast.IsExported(typ) {
				names[typ+"_"+f.Name.Name] = true
			}
		}
	}
	return names
}

func receiver(f *ast.FuncDecl) string {
	typ := f.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	return typ.(*ast.Ident).Name
}

func TestEveryExportedFunctionMethodAndOptionHasAnExampleThatRuns(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "example_test.go", nil, parser.ParseComments)
	must(t, err)
	runs := make(map[string]bool)
	for _, e := range doc.Examples(file) {
		runs[e.Name] = e.Output != ""
	}
	names := exportedFunctions(t)
	if len(names) < 40 {
		t.Fatalf("found only %d exported functions", len(names))
	}
	for name := range names {
		if !runs[name] {
			t.Errorf("there is no Example%s with an output", name)
		}
	}
	for name := range runs {
		if name != "" && !names[name] {
			t.Errorf("Example%s is of nothing that is exported", name)
		}
	}
}
