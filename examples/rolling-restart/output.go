package main

import (
	"fmt"
	"os"
	"time"
)

var names = map[string]string{"recipe": "the usual loop", "runner": "the Runner"}

// A progress is one line: rewritten in place on a terminal, printed once a second elsewhere.
type progress struct {
	who      string
	terminal bool
	last     time.Time
}

func newProgress(who string) *progress {
	p := &progress{who: who}
	if info, err := os.Stderr.Stat(); err == nil {
		p.terminal = info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

func (p *progress) show(format string, args ...any) {
	every := time.Second
	if p.terminal {
		every = 50 * time.Millisecond
	}
	if time.Since(p.last) < every {
		return
	}
	p.last = time.Now()
	text := p.who + ": " + fmt.Sprintf(format, args...)
	if p.terminal {
		fmt.Fprintf(os.Stderr, "\r%-78s", text)
	} else {
		fmt.Fprintln(os.Stderr, text)
	}
}

func (p *progress) clear() {
	if p.terminal {
		fmt.Fprintf(os.Stderr, "\r%-78s\r", "")
	}
}

func printTable(recipe, runner result) {
	row := func(name, a, b string) { fmt.Printf("%-32s %18s %14s\n", name, a, b) }
	row("", names["recipe"], names["runner"])
	row("requests sent", thousands(burst), thousands(burst))
	row("answered", thousands(recipe.answered), thousands(runner.answered))
	row("lost", thousands(burst-recipe.answered), thousands(burst-runner.answered))
	row("signal to exit, in the burst", ms(recipe.inBurst.took), ms(runner.inBurst.took))
	row("signal to exit, idle", ms(recipe.idle.took), ms(runner.idle.took))

	fmt.Println()
	row("the Runner's report", "in the burst", "idle")
	idle := map[string]string{}
	for _, p := range runner.idle.report.Phases {
		idle[p.Phase] = p.Duration
	}
	for _, p := range runner.inBurst.report.Phases {
		row(p.Phase, short(p.Duration), short(idle[p.Phase]))
	}
	row("requests handled", handled(runner.inBurst.report), handled(runner.idle.report))
}

func handled(r report) string {
	if len(r.Sockets) == 0 {
		return "no report"
	}
	return thousands(r.Sockets[0].Handled)
}

// short writes a duration as the report has it in milliseconds.
func short(text string) string {
	d, err := time.ParseDuration(text)
	if err != nil {
		return text
	}
	return ms(d)
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }

// thousands writes n with a comma, up to 999,999.
func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}
