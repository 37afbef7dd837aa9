package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "serve" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestEachWayOfStoppingLosesRequestsButTheRunners(t *testing.T) {
	const few = 3000
	bars, err := measure(few, 1, time.Second/2)
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range ways {
		if lost := bars[i].lost; (lost == 0) != (w.name == "runner") {
			t.Errorf("%s: %d of %d are lost", w.says, lost, few)
		}
	}
}

func TestThePlotSaysWhatWasMeasured(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lost.svg")
	if err := paint([]bar{{"one way", 8765}, {"the Runner", 0}}, 10_000, file); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a burst of 10,000", "one way", ">8,765<", "the Runner", ">0<", "#FBFBF8", "sans-serif"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the plot does not say %q:\n%s", want, text)
		}
	}
	for _, colour := range regexp.MustCompile(`style="[^"]*fill:(#\w+)"`).FindAllStringSubmatch(string(text), -1) {
		if !strings.Contains(string(text), `[style*="`+colour[1]+`"]`) {
			t.Errorf("%s is the same where the reader's system is dark", colour[1])
		}
	}
}
