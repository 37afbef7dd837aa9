// Package docs holds the pages to what they say: Go code compiles, code that is quoted from a program is still in it,
// and links lead somewhere.
//
// # Conventions for the pages
//
// A block of code is quoted from a file when the line before it says so:
//
//	<!-- from: ../examples/rep/main.go -->
//
// The path is relative to the page. The block's lines must stand in the file as they are, one after the other, though they
// may be indented further there.
//
// A block of Go that is not quoted compiles by itself. With a package clause it is a whole file. Otherwise it is the body of a
// function, and may use what [fragmentHead] declares, the packages of [fragmentImports], and what it declares itself.
//
// Code in other languages (C, Python, YAML, Dockerfiles, units) must be quoted. What is typed at a terminal or is no
// code says so: console, sh, text.
package docs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// pages are all Markdown files of the project's root and of docs/.
func pages(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	if len(all) < 2 {
		t.Fatalf("found only the pages %q", all)
	}
	return all
}

func mustRead(t *testing.T, path string) *page {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := readPage(path, string(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestEveryLinkLeadsSomewhere(t *testing.T) {
	for _, path := range pages(t) {
		p := mustRead(t, path)
		for _, l := range p.links {
			if err := p.follow(l); err != nil {
				t.Errorf("%s:%d: %v", path, l.line, err)
			}
		}
	}
}

// A page can't style its pictures: they see for themselves whether the reader's system is dark.
func TestEveryPictureIsDarkWhereTheReadersSystemIs(t *testing.T) {
	pictures, err := filepath.Glob(filepath.Join(root, "docs", "*.svg"))
	if err != nil || len(pictures) == 0 {
		t.Fatalf("found the pictures %q, %v", pictures, err)
	}
	for _, picture := range pictures {
		text, err := os.ReadFile(picture)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "@media (prefers-color-scheme: dark)") {
			t.Errorf("%s glares on a dark page", picture)
		}
	}
}

func TestEveryBlockOfCodeIsWhatItSays(t *testing.T) {
	compiler := newCompiler(t)
	for _, path := range pages(t) {
		p := mustRead(t, path)
		for _, b := range p.blocks {
			if err := p.checkBlock(compiler, b); err != nil {
				t.Errorf("%s:%d: %v", path, b.line, err)
			}
		}
	}
}

func (p *page) checkBlock(c *compiler, b block) error {
	switch {
	case b.from != "":
		return p.quotes(b)
	case b.language == "go":
		return c.compile(b.text)
	case slices.Contains([]string{"console", "sh", "text"}, b.language):
		return nil
	case b.language == "":
		return errors.New("the block does not say what it is: text, console, or a language")
	}
	return fmt.Errorf("a block of %s must be quoted from a file: put <!-- from: path --> before it", b.language)
}

var ignored = regexp.MustCompile(`(?m)^//go:build ignore`)

// quotes reports whether a block stands in the file that it is from.
func (p *page) quotes(b block) error {
	source, err := os.ReadFile(filepath.Join(filepath.Dir(p.path), b.from))
	if err != nil {
		return err
	}
	if strings.HasSuffix(b.from, ".go") && ignored.Match(source) {
		return fmt.Errorf("%s is not compiled", b.from)
	}
	if !contains(strings.Split(string(source), "\n"), strings.Split(strings.TrimRight(b.text, "\n"), "\n")) {
		return fmt.Errorf("the block is not in %s", b.from)
	}
	return nil
}

// contains reports whether the lines stand in the file, with the same indentation before each that has text.
func contains(file, lines []string) bool {
	for start := range len(file) - len(lines) + 1 {
		if indent, ok := strings.CutSuffix(file[start], lines[0]); ok && strings.TrimSpace(indent) == "" && matches(file[start:], lines, indent) {
			return true
		}
	}
	return false
}

func matches(file, lines []string, indent string) bool {
	for i, line := range lines {
		if line != "" {
			line = indent + line
		}
		if file[i] != line {
			return false
		}
	}
	return true
}

// What follows holds the checks themselves to something: each finds what is wrong.

func TestABrokenLinkIsFound(t *testing.T) {
	for text, want := range map[string]string{
		"[a](#a-title)\n\n# A title!":                      "",
		"[a](#another)\n\n# A title":                       "no heading",
		"[a](docs_test.go)":                                "",
		"[a](nothing.go)":                                  "no such file",
		"[a](../../README.md#options)":                     "",
		"[a](../../README.md#try-that)":                    "no heading",
		"[a][1]\n\n[1]: nothing.md":                        "no such file",
		"# Twice\n\n# Twice\n\n[a](#twice-1)":              "",
		"`[a](nothing.md)` and [b](https://c)":             "",
		"```text\n[a](nothing.md)\n```":                    "",
		"[`a_b` *c*](#an-a_b-and-c)\n\n# An `a_b` and *c*": "",
		"[a](/nothing.md)":                                 "relative",
	} {
		p, err := readPage("page.md", text)
		if err != nil {
			t.Fatal(err)
		}
		var got error
		for _, l := range p.links {
			got = errors.Join(got, p.follow(l))
		}
		checkError(t, text, got, want)
	}
}

func TestABadBlockIsFound(t *testing.T) {
	compiler := newCompiler(t)
	for text, want := range map[string]string{
		"```go\nrunner.Pause()\n```": "no field or method Pause",
		"```go\nerr = socket.Bind(\"tcp://*:5555\")\nname := socket.Name()\n```":  "",
		"```go\nif err = runner.Run(ctx, handle)\n```":                            "expected",
		"```go\nfunc f(m *zmqgrace.Message) error { return m.Reply() }\n```":      "",
		"```go\npackage main\n\nfunc main() { x := 1 }\n```":                      "declared and not used",
		"```go\npackage main\n\nimport \"os\"\n\nfunc main() { os.Exit(0) }\n```": "",
		"```go\nstrings.NoSuchThing()\n```":                                       "undefined",
		"<!-- from: docs_test.go -->\n```go\nreturn err\n```":                     "",
		"<!-- from: docs_test.go -->\n\n```go\nreturn err" + " // no\n```":        "not in docs_test.go",
		"<!-- from: nothing.go -->\n```go\nreturn\n```":                           "no such file",
		"```python\npass\n```":  "must be quoted",
		"```\nwhat\n```":        "does not say",
		"```console\n$ ls\n```": "",
	} {
		p, err := readPage("page.md", text)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.blocks) != 1 {
			t.Fatalf("%q has %d blocks", text, len(p.blocks))
		}
		checkError(t, text, p.checkBlock(compiler, p.blocks[0]), want)
	}
	if _, err := readPage("page.md", "```go\nnot closed"); err == nil {
		t.Error("a block that is not closed is not found")
	}
}

func checkError(t *testing.T, text string, got error, want string) {
	t.Helper()
	if (got == nil) != (want == "") || got != nil && !strings.Contains(got.Error(), want) {
		t.Errorf("%q gives the error %v, want %q", text, got, want)
	}
}
