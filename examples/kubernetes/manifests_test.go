package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/zmqgrace/zmqgrace"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// exitTime is what a process may take from Run's return until it is gone.
const exitTime = 5 * time.Second

// manifests are the objects of kubernetes.yaml.
type manifests struct {
	deployment appsv1.Deployment
	service    corev1.Service
	budget     policyv1.PodDisruptionBudget
}

// readManifests decodes strictly: an unknown or repeated field is an error, as with kubectl --validate=strict.
func readManifests(t *testing.T, text []byte) (*manifests, error) {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{appsv1.AddToScheme, corev1.AddToScheme, policyv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	var m manifests
	for in := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text))); ; {
		document, err := in.Read()
		if errors.Is(err, io.EOF) {
			return &m, nil
		}
		if err != nil {
			return nil, err
		}
		object, _, err := decoder.Decode(document, nil, nil)
		if err != nil {
			return nil, err
		}
		switch o := object.(type) {
		case *appsv1.Deployment:
			m.deployment = *o
		case *corev1.Service:
			m.service = *o
		case *policyv1.PodDisruptionBudget:
			m.budget = *o
		default:
			t.Errorf("kubernetes.yaml has a %T, which no test looks at", o)
		}
	}
}

func mustRead(t *testing.T) *manifests {
	t.Helper()
	text, err := os.ReadFile("kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m, err := readManifests(t, text)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(m.deployment.Spec.Template.Spec.Containers); n != 1 {
		t.Fatalf("the Deployment has %d containers", n)
	}
	return m
}

func (m *manifests) pod() *corev1.PodSpec         { return &m.deployment.Spec.Template.Spec }
func (m *manifests) container() *corev1.Container { return &m.pod().Containers[0] }

// seconds is the longest until a probe's failure has an effect: the first try comes within a period.
func seconds(p *corev1.Probe) time.Duration {
	return time.Duration(p.PeriodSeconds*p.FailureThreshold+p.TimeoutSeconds) * time.Second
}

func TestAMisspelledFieldOfAManifestIsRefused(t *testing.T) {
	text, err := os.ReadFile("kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("terminationGracePeriodSeconds"), []byte("terminationGraceSeconds"), 1)
	if _, err := readManifests(t, text); err == nil || !strings.Contains(err.Error(), "terminationGraceSeconds") {
		t.Errorf("a manifest with a misspelled field gives the error %v", err)
	}
}

func TestKubernetesWaitsLongerThanTheGrace(t *testing.T) {
	m := mustRead(t)
	period := m.pod().TerminationGracePeriodSeconds
	if period == nil {
		t.Fatal("the pod has no terminationGracePeriodSeconds")
	}
	if has := time.Duration(*period) * time.Second; has < grace+exitTime {
		t.Errorf("the pod is killed after %v; the grace is %v, and the exit may take %v", has, grace, exitTime)
	}
	if hooks := m.container().Lifecycle; hooks != nil && hooks.PreStop != nil {
		t.Error("a preStop hook takes its time from terminationGracePeriodSeconds, before SIGTERM: WithReadyDelay is there for that")
	}
}

func TestTheReadyDelayOutlastsTheReadinessProbe(t *testing.T) {
	if probe := mustRead(t).container().ReadinessProbe; seconds(probe) >= readyDelay {
		t.Errorf("the readiness probe may take %v to be seen, the ready delay is %v", seconds(probe), readyDelay)
	}
}

func TestTheGraceHasRoomForAllItsParts(t *testing.T) {
	if needs := readyDelay + zmqgrace.DefaultDrainLimit + zmqgrace.DefaultLinger; needs >= grace {
		t.Errorf("ready delay, drain limit and linger are %v, the grace is %v", needs, grace)
	}
}

func TestTheLivenessProbeSparesASlowHandler(t *testing.T) {
	probe := mustRead(t).container().LivenessProbe
	if stuckAfter < 2*heartbeat {
		t.Errorf("the loop beats every %v and counts as stuck after %v", heartbeat, stuckAfter)
	}
	if probe.FailureThreshold < 2 {
		t.Error("one lost probe restarts the pod")
	}
}

func TestTheProbesAskTheServersOwnPaths(t *testing.T) {
	c := mustRead(t).container()
	for path, probe := range map[string]*corev1.Probe{readyPath: c.ReadinessProbe, livePath: c.LivenessProbe} {
		if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != path || probe.HTTPGet.Port != intstr.FromString("http") {
			t.Errorf("no probe asks %s on port http: %+v", path, probe)
		}
	}
}

func TestThePortsAreTheServers(t *testing.T) {
	m := mustRead(t)
	ports := make(map[string]string)
	for _, p := range m.container().Ports {
		ports[p.Name] = strconv.Itoa(int(p.ContainerPort))
	}
	endpoint, err := url.Parse(strings.Replace(*listen, "*", "any", 1))
	if err != nil {
		t.Fatal(err)
	}
	_, webPort, err := net.SplitHostPort(*web)
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"zmq": endpoint.Port(), "http": webPort}; !maps.Equal(ports, want) {
		t.Errorf("the container has the ports %v, the server %v", ports, want)
	}
	for _, p := range m.service.Spec.Ports {
		if _, ok := ports[p.TargetPort.String()]; !ok {
			t.Errorf("the Service leads to port %q, which the container does not have", p.TargetPort.String())
		}
	}
}

func TestServiceAndBudgetSelectTheDeploymentsPods(t *testing.T) {
	m := mustRead(t)
	labels := m.deployment.Spec.Template.Labels
	for what, selector := range map[string]map[string]string{
		"Deployment":          m.deployment.Spec.Selector.MatchLabels,
		"Service":             m.service.Spec.Selector,
		"PodDisruptionBudget": m.budget.Spec.Selector.MatchLabels,
	} {
		if _, err := metav1.LabelSelectorAsSelector(&metav1.LabelSelector{MatchLabels: selector}); err != nil || !maps.Equal(selector, labels) {
			t.Errorf("the %s selects %v, the pods are %v (%v)", what, selector, labels, err)
		}
	}
}

func TestThereIsAlwaysAnotherPodForWhomALateClientLooks(t *testing.T) {
	m := mustRead(t)
	replicas := int(*m.deployment.Spec.Replicas)
	gone, err := intstr.GetScaledValueFromIntOrPercent(m.budget.Spec.MaxUnavailable, replicas, true)
	if err != nil || gone >= replicas || gone < 1 {
		t.Errorf("the budget lets %d of %d pods go at once (%v); with 0 a node can never be drained", gone, replicas, err)
	}
	if u := m.deployment.Spec.Strategy.RollingUpdate.MaxUnavailable; u.IntValue() != 0 {
		t.Errorf("a rolling update takes %v pods away before their successors are ready", u)
	}
}

func TestTheServerIsProcessOneOfItsContainer(t *testing.T) {
	if c := mustRead(t).container(); len(c.Command)+len(c.Args) > 0 {
		t.Errorf("the Deployment has a command of its own, %v: the image's is checked here", append(c.Command, c.Args...))
	}
	text, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	var entry []string
	for line := range strings.Lines(string(text)) {
		if list, ok := strings.CutPrefix(line, "ENTRYPOINT "); ok {
			if err := json.Unmarshal([]byte(list), &entry); err != nil {
				t.Errorf("ENTRYPOINT %s is not in exec form: a shell gets the signals: %v", list, err)
			}
		}
		if strings.HasPrefix(line, "CMD ") || strings.HasPrefix(line, "SHELL ") {
			t.Errorf("the Dockerfile has another entry: %s", line)
		}
	}
	if len(entry) != 1 || !strings.HasPrefix(entry[0], "/") || !strings.Contains(string(text), "-o "+entry[0]+" ") ||
		!strings.Contains(string(text), "COPY --from=build "+entry[0]+" "+entry[0]+"\n") {
		t.Errorf("the entry point is %q, which is not what the Dockerfile builds", entry)
	}
}
