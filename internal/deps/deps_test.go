// Package deps holds the script that installs libzmq, and peers for the tests; these tests run it with package managers that only pretend.
package deps

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// machine is a PATH of its own: a shell, id, env and whatever else a test puts there.
type machine struct {
	t   *testing.T
	bin string
}

func newMachine(t *testing.T, uid string) machine {
	m := machine{t, t.TempDir()}
	for _, name := range []string{"sh", "env", "cp"} {
		real, err := exec.LookPath(name)
		if err != nil {
			t.Skipf("no %s here: %v", name, err)
		}
		if err := os.Symlink(real, filepath.Join(m.bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	m.program("id", "echo "+uid)
	return m
}

// program adds a shell script.
func (m machine) program(name, script string) {
	if err := os.WriteFile(filepath.Join(m.bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

// manager adds a package manager that writes down how it was called; one that works makes pkg-config find libzmq.
func (m machine) manager(name string, works bool) {
	script := "echo " + name + ` "$@"; exit 1`
	if works {
		m.program("found", "exit 0")
		script = "echo " + name + ` "$@"; cp "${0%/*}/found" "${0%/*}/pkg-config"`
	}
	m.program(name, script)
}

func (m machine) run(args ...string) (output string, err error) {
	cmd := exec.Command(filepath.Join(m.bin, "sh"), append([]string{"deps.sh"}, args...)...)
	cmd.Env = []string{"PATH=" + m.bin, "INTEROP_PYTHON=python"}
	var both bytes.Buffer
	cmd.Stdout, cmd.Stderr = &both, &both
	err = cmd.Run()
	return both.String(), err
}

func TestEachPackageManagerIsAskedForItsOwnPackageAndOnlyOnce(t *testing.T) {
	for manager, want := range map[string]string{
		"apt-get": "libzmq3-dev",
		"dnf":     "zeromq-devel",
		"yum":     "zeromq-devel",
		"apk":     "zeromq-dev",
		"pacman":  "zeromq",
		"zypper":  "zeromq-devel",
		"brew":    "zeromq",
	} {
		t.Run(manager, func(t *testing.T) {
			m := newMachine(t, "0")
			m.manager(manager, true)
			output, err := m.run()
			if err != nil || !strings.Contains(output, " "+want+" ") {
				t.Errorf("first run: %v, does not ask for %s:\n%s", err, want, output)
			}
			if output, err = m.run(); err != nil || output != "" {
				t.Errorf("second run: %v, and it must say nothing:\n%s", err, output)
			}
		})
	}
}

func TestWhereThePackageManagerIsUnknownTheMessageNamesThePackage(t *testing.T) {
	output, err := newMachine(t, "0").run()
	if err == nil {
		t.Error("it must fail")
	}
	for _, want := range []string{"libzmq3-dev on Debian", "zeromq-devel on Fedora", "zeromq-dev on Alpine", "zeromq on Arch"} {
		if !strings.Contains(output, want) {
			t.Errorf("no %q in:\n%s", want, output)
		}
	}
}

func TestAFailingPackageManagerIsAFailure(t *testing.T) {
	m := newMachine(t, "0")
	m.manager("dnf", false)
	if output, err := m.run(); err == nil || !strings.Contains(output, "package manager failed") {
		t.Errorf("%v:\n%s", err, output)
	}
}

func TestAPackageManagerThatInstalledNothingIsAFailure(t *testing.T) {
	m := newMachine(t, "0")
	m.program("dnf", "exit 0")
	if output, err := m.run(); err == nil || !strings.Contains(output, "still does not find libzmq") {
		t.Errorf("%v:\n%s", err, output)
	}
}

func TestOtherUsersInstallThroughSudo(t *testing.T) {
	m := newMachine(t, "1000")
	m.manager("apt-get", true)
	if output, err := m.run(); err == nil || !strings.Contains(output, "there is no sudo") {
		t.Errorf("without sudo: %v:\n%s", err, output)
	}
	m.program("sudo", `echo sudo "$@"; "$@"`)
	if output, err := m.run(); err != nil || !strings.Contains(output, "sudo apt-get") {
		t.Errorf("with sudo: %v:\n%s", err, output)
	}
}

func TestThePeersAreInstalledOnlyWhereAskedForAndMissing(t *testing.T) {
	m := newMachine(t, "0")
	m.manager("apt-get", true)
	m.program("python", "exit 0") // has pyzmq
	m.program("systemd-analyze", "exit 0")
	output, err := m.run("extras")
	if err != nil || !strings.Contains(output, " python3-zmq libczmq-dev") || strings.Contains(output, "libzmq3-dev") {
		t.Errorf("CZMQ is missing: %v:\n%s", err, output)
	}
	if output, err = m.run("extras"); err != nil || output != "" {
		t.Errorf("nothing is missing: %v, and it must say nothing:\n%s", err, output)
	}
	m.program("python", "exit 1")
	if output, err = m.run("extras"); err == nil || !strings.Contains(output, "is still missing") {
		t.Errorf("there is no pyzmq: %v:\n%s", err, output)
	}
}

func TestAnUnknownNameIsRefused(t *testing.T) {
	if output, err := newMachine(t, "0").run("everything"); err == nil || !strings.Contains(output, "'everything'") {
		t.Errorf("%v:\n%s", err, output)
	}
}
