// Package mallard speaks to the real server through the Go driver for ADBC, as a program of a user does.
//
// All tests share one server, which TestMain starts over a definition of its own (lab_test.go) and stops at the end.
// They don't see each other's rows: each takes keys that no other has (own, in client_test.go).
package mallard

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	startTimeout = 20 * time.Second
	stopTimeout  = 20 * time.Second
)

// shared is the server of all tests.
var shared *server

func TestMain(m *testing.M) { os.Exit(withServer(m.Run)) }

func withServer(run func() int) (code int) {
	folder, err := os.MkdirTemp("", "mallard-go-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(folder)
	definition := filepath.Join(folder, "definition")
	if err = writeDefinition(definition); err == nil {
		// Small slices, so that the tables of these tests have several.
		shared, err = start(filepath.Join(folder, "log"),
			"local", "--definition", definition, "--data", filepath.Join(folder, "data"), "--slice-mib", "1")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code = run()
	if err := shared.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// server is a process group of the server under test.
type server struct {
	uri     string
	command []string
	logPath string
	process *os.Process
	ended   chan error
}

// start runs the server with a command that listens, on a free port, until it says where.
func start(logPath string, command ...string) (*server, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// The server dies with the thread that starts it: a test run that is killed leaves none behind.
	runtime.LockOSThread()
	child := exec.Command(binary(), append(command, "--listen", "127.0.0.1:0")...)
	child.Env = append(os.Environ(), "MALLARD_KEY="+strings.Repeat("5a", 32))
	child.Stderr = log
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	stdout, err := child.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := child.Start(); err != nil {
		return nil, fmt.Errorf("the server can't be started: %w; run `make build`, or set MALLARD_BIN", err)
	}
	it := &server{command: command, logPath: logPath, process: child.Process, ended: make(chan error, 1)}
	first := make(chan string, 1)
	go func() {
		lines := bufio.NewReader(stdout)
		line, _ := lines.ReadString('\n')
		first <- strings.TrimSpace(line)
		_, _ = io.Copy(io.Discard, lines)
		it.ended <- child.Wait()
	}()
	select {
	case line := <-first:
		address, listens := strings.CutPrefix(line, "listening on ")
		if !listens {
			it.kill()
			return nil, fmt.Errorf("the first line is %q, not `listening on HOST:PORT`; log:\n%s", line, it.log())
		}
		it.uri = "grpc://" + address
		return it, nil
	case <-time.After(startTimeout):
		it.kill()
		return nil, fmt.Errorf("the server did not say where it listens within %s; log:\n%s", startTimeout, it.log())
	}
}

// stop asks the server to stop, which must leave nothing behind.
func (s *server) stop() error {
	if err := s.process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("the server was gone before it was stopped: %w; log:\n%s", err, s.log())
	}
	select {
	case err := <-s.ended:
		if err != nil {
			return fmt.Errorf("SIGTERM gave %w; log:\n%s", err, s.log())
		}
	case <-time.After(stopTimeout):
		s.kill()
		return fmt.Errorf("SIGTERM did not stop the server within %s; log:\n%s", stopTimeout, s.log())
	}
	if err := syscall.Kill(-s.process.Pid, 0); !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("a process of the server's group is left behind (%v)", err)
	}
	return nil
}

func (s *server) kill() {
	_ = syscall.Kill(-s.process.Pid, syscall.SIGKILL)
	<-s.ended
}

// log gives the end of what the server said on stderr.
func (s *server) log() string {
	text, _ := os.ReadFile(s.logPath)
	return string(text[max(0, len(text)-4000):])
}

// binary is the path of the server: MALLARD_BIN, or what `make build` made.
func binary() string {
	if path := os.Getenv("MALLARD_BIN"); path != "" {
		return path
	}
	target := os.Getenv("CARGO_TARGET_DIR")
	if target == "" {
		target = filepath.Join("..", "..", "target")
	}
	return filepath.Join(target, "release", "flight-server")
}
