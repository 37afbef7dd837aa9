package libzmq

import (
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

// storm sends signals to the thread that calls it, which stays on it, until the test or the returned function ends it.
func storm(t *testing.T) (end func()) {
	t.Helper()
	runtime.LockOSThread()
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, syscall.SIGUSR1) // or it would end the process
	pid, thread := syscall.Getpid(), syscall.Gettid()
	var stopped atomic.Bool
	var done sync.WaitGroup
	done.Go(func() {
		for !stopped.Load() {
			syscall.RawSyscall(syscall.SYS_TGKILL, uintptr(pid), uintptr(thread), uintptr(syscall.SIGUSR1))
			time.Sleep(20 * time.Microsecond) // or nothing else runs
		}
	})
	<-heard
	end = sync.OnceFunc(func() {
		stopped.Store(true)
		done.Wait()
		signal.Stop(heard)
		runtime.UnlockOSThread()
	})
	t.Cleanup(end)
	return end
}

func TestSignalsDoNotPutPollOff(t *testing.T) {
	pull, push := connect(t, zmq4.PULL, zmq4.PUSH, "inproc://test")
	defer storm(t)()
	pull.poller.Want(0, zmq4.POLLIN)
	const timeout = 200 * time.Millisecond
	began := time.Now()
	found, err := pull.poller.Poll(timeout)
	took := time.Since(began)
	if found != 0 || err != nil || took < timeout || took > patience {
		t.Errorf("Poll(%v): %d, %v after %v", timeout, found, err, took)
	}
	time.AfterFunc(timeout, func() { push.SendBytes([]byte("x"), 0) })
	if found, err := pull.poller.Poll(-1); found != 1 || err != nil {
		t.Errorf("Poll for ever: %d, %v", found, err)
	}
}

func TestSignalsSpoilNoMessage(t *testing.T) {
	pull, push := connect(t, zmq4.PULL, zmq4.PUSH, "tcp://127.0.0.1:*")
	defer storm(t)()
	b := newBatch(t, 1<<16)
	var sent [][][]byte
	for i := range 300 {
		sent = append(sent, [][]byte{body(i*40, uint64(i)), {}, body(i, uint64(i))})
	}
	for range 10 {
		var p parcel
		for _, m := range sent {
			p.add(4096, false, m...)
		}
		p.sendAll(push, true)
		expectSame(t, pull.receiveAll(len(sent), b, 4096), sent)
	}
}
