package zmqgrace

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A restart behind a round trip of 100 ms.

const (
	oneWay      = 50 * time.Millisecond
	firstWindow = 10 * 1460 // bytes without an acknowledgement, at the start of a connection (RFC 6928)
)

func init() {
	children["forwarder"] = forwardAsChild
	children["in a namespace"] = enterNamespaceAsChild
}

// forwardAsChild is the long way between its clients and the target in its environment.
func forwardAsChild() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	say("forwarding", "tcp://"+l.Addr().String())
	for {
		client, err := l.Accept()
		check(err)
		go func() {
			defer client.Close()
			server, err := net.Dial("tcp", os.Getenv("ZMQGRACE_TEST_TARGET"))
			if err != nil {
				return
			}
			defer server.Close()
			var both sync.WaitGroup
			both.Go(func() { carry(server.(*net.TCPConn), client.(*net.TCPConn)) })
			both.Go(func() { carry(client.(*net.TCPConn), server.(*net.TCPConn)) })
			both.Wait()
		}()
	}
}

// carry copies from src to dst as a long way does: what goes in comes out later, and as in TCP's slow start no
// more is on the way than a window, which grows by what has been acknowledged.
func carry(dst, src *net.TCPConn) {
	type piece struct {
		data []byte
		due  time.Time
	}
	there, back := make(chan piece, 1<<10), make(chan piece, 1<<10)
	var mu sync.Mutex
	acknowledged := sync.NewCond(&mu)
	onTheWay, window := 0, firstWindow
	go func() {
		defer close(there)
		for {
			mu.Lock()
			for onTheWay >= window {
				acknowledged.Wait()
			}
			room := window - onTheWay
			mu.Unlock()
			data := make([]byte, min(room, 16<<10))
			n, err := src.Read(data)
			if err != nil {
				return
			}
			mu.Lock()
			onTheWay += n
			mu.Unlock()
			there <- piece{data[:n], time.Now().Add(oneWay)}
		}
	}()
	go func() {
		for p := range back {
			time.Sleep(time.Until(p.due))
			mu.Lock()
			onTheWay -= len(p.data)
			window += len(p.data)
			mu.Unlock()
			acknowledged.Signal()
		}
	}()
	for p := range there {
		time.Sleep(time.Until(p.due))
		if _, err := dst.Write(p.data); err != nil {
			src.CloseRead() // what comes after it is lost
		}
		back <- piece{p.data, time.Now().Add(oneWay)}
	}
	close(back)
	time.Sleep(oneWay)
	dst.CloseWrite()
}

// startForwarder starts the long way to a tcp endpoint, and returns the endpoint of its near end.
func startForwarder(t testing.TB, program, endpoint string, env ...string) string {
	t.Helper()
	target := strings.TrimPrefix(endpoint, "tcp://")
	return startChild(t, program, append(env, "ZMQGRACE_TEST_TARGET="+target)...).expect("forwarding")
}

// enterNamespaceAsChild becomes another child program in a network namespace; both are in its environment.
func enterNamespaceAsChild() {
	ip, err := exec.LookPath("ip")
	check(err)
	check(os.Setenv(childVariable, os.Getenv("ZMQGRACE_TEST_PROGRAM")))
	check(syscall.Exec(ip, []string{"ip", "netns", "exec", os.Getenv("ZMQGRACE_TEST_NAMESPACE"), os.Args[0]}, os.Environ()))
}

// namespaces makes two network namespaces with a cable between them, and returns their names and the address of
// the first.
func namespaces(t *testing.T) (one, two, address string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("skipped: network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skipf("skipped: no ip command for network namespaces: %v", err)
	}
	ip := func(args string) error {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %v: %s", args, err, out)
		}
		return nil
	}
	one, two = fmt.Sprintf("zmqgrace-%d-a", os.Getpid()), fmt.Sprintf("zmqgrace-%d-b", os.Getpid())
	for _, name := range []string{one, two} {
		if err := ip("netns add " + name); err != nil {
			t.Skipf("skipped: no network namespaces here: %v", err)
		}
		t.Cleanup(func() {
			if err := ip("netns del " + name); err != nil {
				t.Error(err)
			}
		})
	}
	err := ip("link add veth0 netns " + one + " type veth peer name veth0 netns " + two)
	if err != nil {
		t.Skipf("skipped: no cable between network namespaces here: %v", err)
	}
	address = "192.0.2.1" // of the block for documentation: nobody has it
	must(t, errors.Join(
		ip("-n "+one+" address add "+address+"/24 dev veth0"),
		ip("-n "+two+" address add 192.0.2.2/24 dev veth0"),
		ip("-n "+one+" link set veth0 up"),
		ip("-n "+two+" link set veth0 up"),
		ip("-n "+one+" link set lo up"),
		ip("-n "+two+" link set lo up"),
	))
	return one, two, address
}

func TestARestartBehindALongRoundTripLosesNothing(t *testing.T) {
	t.Run("loopback", func(t *testing.T) {
		t.Parallel()
		svc := service{Endpoint: ownPort(t), Unlimited: true, Work: burstWork, Limit: patience, Grace: 3 * patience} // on a busy machine it takes that long
		start := func() *server { return startServer(t, svc) }
		first := start()
		near := startForwarder(t, "forwarder", first.endpoint)
		restartInABurst(t, first, start, startChild(t, "burst client", "ZMQGRACE_TEST_ENDPOINT="+near))
	})
	t.Run("namespaces", func(t *testing.T) {
		t.Parallel()
		one, two, address := namespaces(t)
		inside := func(namespace, program string) []string {
			return []string{"ZMQGRACE_TEST_NAMESPACE=" + namespace, "ZMQGRACE_TEST_PROGRAM=" + program}
		}
		svc := service{Endpoint: "tcp://" + address + ":5555", Unlimited: true, Work: burstWork, Limit: patience, Grace: 3 * patience}
		start := func() *server { return serverWith(t, "in a namespace", svc, inside(one, "server")...) }
		first := start()
		near := startForwarder(t, "in a namespace", first.endpoint, inside(two, "forwarder")...)
		client := startChild(t, "in a namespace", append(inside(two, "burst client"), "ZMQGRACE_TEST_ENDPOINT="+near)...)
		restartInABurst(t, first, start, client)
	})
}
