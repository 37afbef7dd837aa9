package main

import (
	"embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The C programs are no files of this package, or the go command would take them for cgo's.
//
//go:embed testdata
var sources embed.FS

// zloop takes part where CZMQ is installed.
const zloopProgram = "zloop"

// compile makes the C programs, and this one anew.
func (b *bench) compile() error {
	if err := os.CopyFS(b.dir, sources); err != nil {
		return err
	}
	programs := map[string]string{"load": "libzmq", "server": "libzmq"}
	if b.czmq = exec.Command("pkg-config", "--exists", "libczmq").Run() == nil; b.czmq {
		programs[zloopProgram] = "libczmq libzmq"
	}
	for name, libraries := range programs {
		progress("compiling %s", name)
		flags, err := exec.Command("pkg-config", append([]string{"--cflags", "--libs"}, strings.Fields(libraries)...)...).Output()
		if err != nil {
			return fmt.Errorf("pkg-config %s: %w", libraries, err)
		}
		source := filepath.Join(b.dir, "testdata", name+".c")
		args := append([]string{"-O2", "-Wall", "-o", b.program(name), source}, strings.Fields(string(flags))...)
		if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("gcc: %w\n%s", err, out)
		}
	}
	progress("compiling the portable program")
	if out, err := exec.Command("go", "build", "-ldflags", portableFlag, "-o", b.program("portable"), ".").CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

func (b *bench) program(name string) string { return filepath.Join(b.dir, name) }

// inC is the command that runs a server of testdata/server.c.
func (b *bench) inC(args ...any) []string {
	return append([]string{b.program("server")}, words(args)...)
}

// load runs one of the loads of testdata/load.c, and returns what it measured.
func (b *bench) load(args ...any) (sample, error) {
	cmd := exec.Command(b.program("load"), words(args)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("load %v: %w", args, err)
	}
	return parse(string(out))
}

// warm and timed are the seconds that a load takes before it measures, and while it does.
func (b *bench) warm() string  { return seconds(b.turn / 4) }
func (b *bench) timed() string { return seconds(b.turn) }

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }

// self is the command that runs a server of this program.
func self(name string, args ...any) []string {
	exe, err := os.Executable()
	fail(err)
	return append([]string{exe, serveArg, name}, words(args)...)
}

func words(args []any) (words []string) {
	for _, a := range args {
		words = append(words, fmt.Sprint(a))
	}
	return words
}

// parse makes a sample of a line of names and values, in seconds: "messages 1000 seconds 0.1 cpu 0.05".
func parse(line string) (sample, error) {
	fields := strings.Fields(line)
	got := map[string]float64{}
	for i := 0; i+1 < len(fields); i += 2 {
		v, err := strconv.ParseFloat(fields[i+1], 64)
		if err != nil {
			return nil, fmt.Errorf("measured %q: %w", line, err)
		}
		got[fields[i]] = v
	}
	s := sample{}
	for name, v := range got {
		switch name {
		case "messages":
			s[iterations] = v
		case "seconds":
			s[nsPerOp] = v * 1e9 / got["messages"]
			s[msgPerSec] = got["messages"] / v
		case "cpu":
			s[cpuPerMsg] = v * 1e9 / got["messages"]
		case "p50":
			s[p50] = v * 1e9
		case "p99":
			s[p99] = v * 1e9
		default:
			s[name] = v
		}
	}
	return s, nil
}
