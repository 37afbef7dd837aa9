package zmqgrace

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// docs/reliability.md promises nothing that no test shows.

// tables returns the rows of the tables of a page, as cells, each without its head.
func tables(page string) (tables [][][]string) {
	inside := false
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		switch {
		case !strings.HasPrefix(line, "|"):
			inside = false
		case strings.HasPrefix(line, "|---"):
			inside = true
			tables = append(tables, nil)
		case inside:
			var cells []string
			for _, cell := range strings.Split(strings.Trim(line, "|"), "|") {
				cells = append(cells, strings.TrimSpace(cell))
			}
			last := &tables[len(tables)-1]
			*last = append(*last, cells)
		}
	}
	return tables
}

var testName = regexp.MustCompile("`(Test\\w+)`")

// existingTests are those of this directory.
func existingTests(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("*_test.go")
	must(t, err)
	tests := make(map[string]bool)
	for _, file := range files {
		source, err := os.ReadFile(file)
		must(t, err)
		for _, found := range regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`).FindAllStringSubmatch(string(source), -1) {
			tests[found[1]] = true
		}
	}
	return tests
}

func reliability(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("docs/reliability.md")
	must(t, err)
	return string(page)
}

func TestEveryTestThatTheDocsNameExists(t *testing.T) {
	tests := existingTests(t)
	for _, found := range testName.FindAllStringSubmatch(reliability(t), -1) {
		if !tests[found[1]] {
			t.Errorf("docs/reliability.md names %s, which does not exist", found[1])
		}
	}
}

func TestEveryRowOfTheDocsNamesATestAndEveryFaultHasEveryPhase(t *testing.T) {
	all := tables(reliability(t))
	if len(all) < 2 || len(all[0]) == 0 {
		t.Fatal("docs/reliability.md has no tables of faults")
	}
	const impossible = 1 // the table that says what can't come
	seen := make(map[string][]string)
	for i, table := range all {
		for _, row := range table {
			if i != impossible && !testName.MatchString(row[len(row)-1]) {
				t.Errorf("no test shows this: %q", row)
			}
			if i <= impossible {
				seen[row[0]] = append(seen[row[0]], strings.Split(row[1], ", ")...)
			}
		}
	}
	want := []string{"Announced", "Closing", "Draining", "Idle", "Running"}
	for fault, phases := range seen {
		if slices.Sort(phases); !slices.Equal(phases, want) {
			t.Errorf("%s: the phases are %q, not %q", fault, phases, want)
		}
	}
}
