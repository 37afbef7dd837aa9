package main

import (
	"image/png"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The servers are processes of this binary, as they are of the program's.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == serveArg {
		fail(serve(os.Args[2], os.Args[3:]))
		return
	}
	os.Exit(m.Run())
}

// The figures of such short turns are worth nothing; this is about the servers, the loads, the file and the picture. Left out
// is what sleeps for long: exit and idle have no load.
func TestEverythingCanBeMeasured(t *testing.T) {
	var names []string
	for _, m := range measurements {
		if m.name != "exit" && m.name != "idle" {
			names = append(names, m.name)
		}
	}
	record, plot := filepath.Join(t.TempDir(), "bench.out"), filepath.Join(t.TempDir(), "ratios.png")
	b := &bench{rounds: 1, turn: 20 * time.Millisecond}
	if _, err := b.run(names, record, plot); err != nil {
		t.Fatal(err)
	}

	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	// What benchstat reads as a result: a name, a count, and values with units.
	line := regexp.MustCompile(`^Benchmark\S+/server=\S+-\d+\t[1-9]\d*\t\d+\.\d+ ns/op(\t\d+\.\d+ \S+)*$`)
	results := 0
	for got := range strings.Lines(string(text)) {
		if !strings.HasPrefix(got, "Benchmark") {
			continue
		}
		results++
		if !line.MatchString(strings.TrimSpace(got)) {
			t.Errorf("benchstat can't read %q", got)
		}
	}
	if results < 60 {
		t.Errorf("%d results; there are more servers than that", results)
	}

	file, err := os.Open(plot)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if picture, err := png.DecodeConfig(file); err != nil || picture.Width != 360 {
		t.Errorf("the plot is %d pixels wide, %v; a phone is 360", picture.Width, err)
	}
	if len(b.marks) == 0 {
		t.Error("no figure was held against its mark")
	}
}

func TestARatioIsTheMedianOfTheRoundsRatios(t *testing.T) {
	rates := func(values ...float64) *contestant {
		c := &contestant{}
		for _, v := range values {
			c.samples = append(c.samples, sample{msgPerSec: v})
		}
		return c
	}
	// The machine was busy in the second round, which slowed both down. The ratio of the medians would be 25/15.
	if got := rates(20, 8, 30, 40).ratio(msgPerSec, rates(10, 4, 20, 20)); got != 2 {
		t.Errorf("ratio %v, want 2", got)
	}
}

func TestAMissedMarkIsToldFromOneThatIsMet(t *testing.T) {
	c := &contest{name: "Test", contestants: []*contestant{
		{name: "a", samples: []sample{{msgPerSec: 3, cpuPerMsg: 3}}},
		{name: "b", samples: []sample{{msgPerSec: 2, cpuPerMsg: 2}}},
	}}
	b := &bench{}
	b.atLeast(c, msgPerSec, "a", "b", 1.5)
	b.atMost(c, cpuPerMsg, "a", "b", 1.5)
	if b.printMarks() {
		t.Errorf("marks met exactly are missed: %v", b.marks)
	}
	b.atLeast(c, msgPerSec, "b", "a", 0.9)
	b.atMost(c, cpuPerMsg, "a", "b", 1.4)
	if !b.printMarks() || b.marks[2].met || b.marks[3].met {
		t.Errorf("missed marks are met: %v", b.marks)
	}
}

func TestOnlyKnownMeasurementsAndPicturesAreTaken(t *testing.T) {
	if !known(nil) || !known([]string{"echo", "idle"}) || known([]string{"echo", "ping "}) {
		t.Error("known takes what is not there, or not what is")
	}
	if !plottable("") || !plottable("a.svg") || !plottable("a.png") || plottable("a.gif") {
		t.Error("plottable takes what can't be drawn, or not what can")
	}
}

func TestEveryColourOfThePlotHasADarkOne(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ratios.svg")
	if err := paint([]chart{{"a contest", []bar{{"zmqgrace", 2, true}, {"another", 1, false}}}}, file); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	colours := regexp.MustCompile(`style="[^"]*fill:(#\w+)"`).FindAllStringSubmatch(string(text), -1)
	if len(colours) < 8 {
		t.Errorf("only %d things are drawn:\n%s", len(colours), text)
	}
	for _, colour := range colours {
		if !strings.Contains(string(text), `[style*="`+colour[1]+`"]`) {
			t.Errorf("%s is the same where the reader's system is dark", colour[1])
		}
	}
}
