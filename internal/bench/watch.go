package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/metrics"
	"syscall"
	"time"
)

// A watch takes the time, and the CPU time of this process.
type watch struct {
	began time.Time
	cpu   time.Duration
}

func startWatch() watch { return watch{time.Now(), cpuTime()} }

// print prints what the measuring program reads, see parse.
func (w watch) print(messages int) {
	fmt.Printf("messages %d seconds %.9f cpu %.9f\n", messages, time.Since(w.began).Seconds(), (cpuTime() - w.cpu).Seconds())
}

func cpuTime() time.Duration {
	var used syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// A counter measures a sink, from the message "s" to the message "e".
type counter struct {
	watch
	n int
}

func (c *counter) see(frame []byte) {
	switch {
	case len(frame) != 1:
		c.n++
	case frame[0] == 's':
		c.n, c.watch = 0, startWatch()
	default:
		c.print(c.n)
	}
}

// tellMemory has this process tell on a SIGUSR1 what it has allocated since it began, and how many seconds of CPU time its
// garbage collector took, of how many that were not idle. A collection comes first, since the runtime reckons up the latter then.
func tellMemory() {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	go func() {
		for range asked {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			values := []metrics.Sample{
				{Name: "/cpu/classes/gc/total:cpu-seconds"},
				{Name: "/cpu/classes/total:cpu-seconds"},
				{Name: "/cpu/classes/idle:cpu-seconds"},
			}
			metrics.Read(values)
			gc, all, idle := values[0].Value.Float64(), values[1].Value.Float64(), values[2].Value.Float64()
			fmt.Printf("mallocs %d allocated %d collecting %.9f working %.9f\n", m.Mallocs, m.TotalAlloc, gc, all-idle)
		}
	}()
}
