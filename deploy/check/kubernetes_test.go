// Package check has no code. Its tests read deploy/kubernetes and deploy/compose with the libraries
// of the tools that deploy them. It is a module of its own, so that flytftp depends on none of
// them.
package check

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/yannh/kubeconform/pkg/validator"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

var rendered = flag.String("rendered", "", "write the pod of the base's Deployment, and its ConfigMap, to this `file`")

// object is a manifest, or a part of one.
type object = map[string]any

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	must(t, err)
	return string(content)
}

// build runs kustomize on a kustomization that stands beside a clone of the repository, and returns
// the manifests.
func build(t *testing.T, kustomization string) string {
	t.Helper()
	folder := t.TempDir()
	must(t, os.CopyFS(filepath.Join(folder, "flytftp/deploy/kubernetes"), os.DirFS("../kubernetes")))
	must(t, os.Mkdir(filepath.Join(folder, "boot"), 0o755))
	must(t, os.WriteFile(filepath.Join(folder, "boot/kustomization.yaml"), []byte(kustomization), 0o644))
	must(t, os.WriteFile(filepath.Join(folder, "boot/next.ipxe"), []byte("#!ipxe\nsanboot http://192.0.2.1/disk\n"), 0o644))
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(folder, "boot"))
	must(t, err)
	manifests, err := resources.AsYaml()
	must(t, err)
	return string(manifests)
}

// overlays are the ways to use the base that the page shows, by what they are for.
func overlays(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{
		"base": "resources: [../flytftp/deploy/kubernetes/base]\n",
	}
	page := read(t, "../../docs/kubernetes.md")
	for _, match := range regexp.MustCompile("(?s)\n```yaml\n(# ([^\n]*)\n.*?)```").FindAllStringSubmatch(page, -1) {
		all[match[2]] = match[1]
	}
	if len(all) < 5 {
		t.Fatalf("the page shows %d kustomizations", len(all)-1)
	}
	return all
}

// objects parses manifests.
func objects(t *testing.T, manifests string) (parsed []object) {
	t.Helper()
	for _, text := range strings.Split(manifests, "\n---\n") {
		var o object
		must(t, yaml.Unmarshal([]byte(text), &o))
		parsed = append(parsed, o)
	}
	return parsed
}

// find returns the one object of a kind and a name.
func find(t *testing.T, all []object, kind, name string) object {
	t.Helper()
	for _, o := range all {
		if o["kind"] == kind && get(o, "metadata", "name") == name {
			return o
		}
	}
	t.Fatalf("there is no %s %s", kind, name)
	return nil
}

// get returns what stands below the keys of nested objects, nil if nothing does.
func get(o any, keys ...string) any {
	for _, key := range keys {
		inner, is := o.(object)
		if !is {
			return nil
		}
		o = inner[key]
	}
	return o
}

// list returns the objects of a list, empty if it is absent.
func list(o any) (items []object) {
	all, _ := o.([]any)
	for _, item := range all {
		items = append(items, item.(object))
	}
	return items
}

// invalid returns what kubeconform finds wrong with manifests.
func invalid(t *testing.T, manifests string) (faults []string) {
	t.Helper()
	v, err := validator.New([]string{"testdata/schemas/{{ .ResourceKind }}.json"}, validator.Opts{Strict: true})
	must(t, err)
	results := v.Validate("manifests", io.NopCloser(strings.NewReader(manifests)))
	for _, result := range results {
		if result.Status != validator.Valid {
			signature, _ := result.Resource.Signature()
			faults = append(faults, fmt.Sprintf("%+v: %v", signature, result.Err))
		}
	}
	if len(results) == 0 {
		t.Fatal("kubeconform saw nothing")
	}
	return faults
}

func TestKubernetesManifests(t *testing.T) {
	for use, kustomization := range overlays(t) {
		manifests := build(t, kustomization)
		for _, fault := range invalid(t, manifests) {
			t.Errorf("%s: %s", use, fault)
		}
		deployment := find(t, objects(t, manifests), "Deployment", "flytftp")
		for _, fault := range restricted(get(deployment, "spec", "template", "spec").(object)) {
			t.Errorf("%s: the restricted level refuses %s", use, fault)
		}
		if use == "base" && *rendered != "" {
			pod := object{"apiVersion": "v1", "kind": "Pod",
				"metadata": object{"name": "flytftp"}, "spec": get(deployment, "spec", "template", "spec")}
			content := ""
			for _, o := range []object{find(t, objects(t, manifests), "ConfigMap", "flytftp-files"), pod} {
				text, err := yaml.Marshal(o)
				must(t, err)
				content += "---\n" + string(text)
			}
			must(t, os.WriteFile(*rendered, []byte(content), 0o644))
		}
	}
}

// The schemas find what is misspelt, of a wrong type, or left out.
func TestKubeconformFindsFaults(t *testing.T) {
	manifests := build(t, overlays(t)["base"])
	for from, to := range map[string]string{
		"externalTrafficPolicy": "externalTrafficPolice",
		"periodSeconds: 10":     "periodSeconds: soon",
		"replicas: 2":           "replicas: two",
		"readOnly: true":        "readonly: true",
		"kind: Service\n":       "kind: Servant\n",
		"maxUnavailable: 1":     "maxUnavailable: [1]",
		"containerPort: 6969":   "hostIP: 192.0.2.1",
	} {
		broken := strings.Replace(manifests, from, to, 1)
		if broken == manifests {
			t.Fatalf("the manifests have no %q", from)
		}
		if len(invalid(t, broken)) == 0 {
			t.Errorf("%q passes", to)
		}
	}
}

// restricted returns what the restricted level of the Pod Security Standards refuses of a pod, as
// kubernetes.io/docs/concepts/security/pod-security-standards lists it for Kubernetes 1.34.
func restricted(pod object) (faults []string) {
	refuse := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for _, key := range []string{"hostNetwork", "hostPID", "hostIPC"} {
		if pod[key] == true {
			refuse("%s", key)
		}
	}
	safe := []string{"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
		"net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports",
		"net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
		"net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"}
	for _, sysctl := range list(get(pod, "securityContext", "sysctls")) {
		if !slices.Contains(safe, sysctl["name"].(string)) {
			refuse("the sysctl %s", sysctl["name"])
		}
	}
	for _, volume := range list(pod["volumes"]) {
		for kind := range volume {
			if kind != "name" && !slices.Contains([]string{"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral",
				"persistentVolumeClaim", "projected", "secret"}, kind) {
				refuse("a volume of type %s", kind)
			}
		}
	}
	contexts := []any{pod["securityContext"]}
	containers := slices.Concat(list(pod["initContainers"]), list(pod["containers"]), list(pod["ephemeralContainers"]))
	for _, c := range containers {
		contexts = append(contexts, c["securityContext"])
		// effective is what a container sets, or else its pod.
		effective := func(keys ...string) any {
			if value := get(c["securityContext"], keys...); value != nil {
				return value
			}
			return get(pod["securityContext"], keys...)
		}
		if effective("runAsNonRoot") != true {
			refuse("%s without runAsNonRoot", c["name"])
		}
		if profile := effective("seccompProfile", "type"); profile != "RuntimeDefault" && profile != "Localhost" {
			refuse("%s with the seccomp profile %v", c["name"], profile)
		}
		if get(c, "securityContext", "allowPrivilegeEscalation") != false {
			refuse("%s without allowPrivilegeEscalation: false", c["name"])
		}
		if dropped, _ := get(c, "securityContext", "capabilities", "drop").([]any); !slices.Contains(dropped, any("ALL")) {
			refuse("%s without capabilities.drop ALL", c["name"])
		}
		added, _ := get(c, "securityContext", "capabilities", "add").([]any)
		for _, capability := range added {
			if capability != "NET_BIND_SERVICE" {
				refuse("%s with the capability %s", c["name"], capability)
			}
		}
		for _, port := range list(c["ports"]) {
			if port["hostPort"] != nil {
				refuse("%s with a port of the host", c["name"])
			}
		}
		for _, probe := range []any{c["livenessProbe"], c["readinessProbe"], c["startupProbe"], get(c, "lifecycle", "preStop"), get(c, "lifecycle", "postStart")} {
			if get(probe, "httpGet", "host") != nil || get(probe, "tcpSocket", "host") != nil {
				refuse("%s with a probe of another host", c["name"])
			}
		}
	}
	for _, context := range contexts {
		for _, key := range []string{"windowsOptions", "seLinuxOptions", "appArmorProfile", "procMount"} {
			if get(context, key) != nil {
				refuse("%s, which the standard may allow and these manifests do not use", key)
			}
		}
		if get(context, "privileged") == true || get(context, "runAsNonRoot") == false || fmt.Sprint(get(context, "runAsUser")) == "0" {
			refuse("privileged or root in %v", context)
		}
	}
	return faults
}

func TestRestrictedFindsFaults(t *testing.T) {
	manifests := build(t, overlays(t)["base"])
	for _, c := range []struct{ from, to, fault string }{
		{"runAsNonRoot: true", "runAsNonRoot: false", "runAsNonRoot"},
		{"runAsUser: 65532", "runAsUser: 0", "root"},
		{"type: RuntimeDefault", "type: Unconfined", "seccomp"},
		{"allowPrivilegeEscalation: false", "privileged: true", "allowPrivilegeEscalation"},
		{"allowPrivilegeEscalation: false", "privileged: true", "privileged"},
		{"- ALL", "- NET_RAW", "drop ALL"},
		{"drop:", "add:\n            - NET_ADMIN\n            drop:", "NET_ADMIN"},
		{"containerPort: 6969", "containerPort: 6969\n          hostPort: 69", "port of the host"},
		{"enableServiceLinks: false", "hostNetwork: true", "hostNetwork"},
		{"path: /healthz", "path: /healthz\n            host: 192.0.2.1", "another host"},
		{"runAsGroup: 65532", "runAsGroup: 65532\n        sysctls:\n        - name: net.core.rmem_max\n          value: \"1\"", "rmem_max"},
		{"configMap:\n          name: flytftp-files", "hostPath:\n          path: /srv", "hostPath"},
	} {
		broken := strings.Replace(manifests, c.from, c.to, 1)
		if broken == manifests {
			t.Fatalf("the manifests have no %q", c.from)
		}
		pod := get(find(t, objects(t, broken), "Deployment", "flytftp"), "spec", "template", "spec").(object)
		if faults := strings.Join(restricted(pod), "; "); !strings.Contains(faults, c.fault) {
			t.Errorf("%q passes: %s", c.to, faults)
		}
	}
}

// What the page promises of the base, and what fits together only by its numbers and names.
func TestKubernetesFitsTogether(t *testing.T) {
	all := objects(t, build(t, overlays(t)["base"]))
	deployment, service := find(t, all, "Deployment", "flytftp"), find(t, all, "Service", "flytftp")
	pod := get(deployment, "spec", "template", "spec").(object)
	server := list(pod["containers"])[0]
	environment := map[string]any{}
	for _, variable := range list(server["env"]) {
		environment[variable["name"].(string)] = variable["value"]
	}
	ports := map[string]string{}
	for _, port := range list(server["ports"]) {
		ports[port["name"].(string)] = fmt.Sprintf(":%v", port["containerPort"])
	}
	exposed := list(get(service, "spec", "ports"))
	for promise, kept := range map[string]bool{
		"two servers":                   get(deployment, "spec", "replicas") == 2.0,
		"a balancer":                    get(service, "spec", "type") == "LoadBalancer",
		"client addresses":              get(service, "spec", "externalTrafficPolicy") == "Local",
		"no affinity":                   get(service, "spec", "sessionAffinity") == "None",
		"one port, UDP 69":              len(exposed) == 1 && exposed[0]["port"] == 69.0 && exposed[0]["protocol"] == "UDP",
		"the port of -listen":           ports["tftp"] == environment["TFTP_LISTEN"] && exposed[0]["targetPort"] == "tftp",
		"the port of -http":             ports["http"] == environment["TFTP_HTTP"],
		"health":                        get(server, "livenessProbe", "httpGet", "path") == "/healthz" && get(server, "livenessProbe", "httpGet", "port") == "http",
		"readiness":                     get(server, "readinessProbe", "httpGet", "path") == "/readyz" && get(server, "readinessProbe", "httpGet", "port") == "http",
		"time for -grace":               environment["TFTP_GRACE"] == "25s" && get(server, "lifecycle", "preStop", "sleep", "seconds") == 5.0 && pod["terminationGracePeriodSeconds"] == 35.0,
		"readiness outlives -grace":     get(server, "readinessProbe", "periodSeconds").(float64)*get(server, "readinessProbe", "failureThreshold").(float64) >= 25,
		"the Service finds the pods":    fmt.Sprint(get(service, "spec", "selector")) == fmt.Sprint(get(deployment, "spec", "template", "metadata", "labels")),
		"the Deployment finds the pods": fmt.Sprint(get(deployment, "spec", "selector", "matchLabels")) == fmt.Sprint(get(deployment, "spec", "template", "metadata", "labels")),
		"the budget finds the pods":     fmt.Sprint(get(find(t, all, "PodDisruptionBudget", "flytftp"), "spec", "selector", "matchLabels")) == fmt.Sprint(get(deployment, "spec", "template", "metadata", "labels")),
		"files":                         get(list(pod["volumes"])[0], "configMap", "name") == "flytftp-files" && list(server["volumeMounts"])[0]["mountPath"] == "/files",
		"no secret of the cluster":      pod["automountServiceAccountToken"] == false,
	} {
		if !kept {
			t.Errorf("not kept: %s", promise)
		}
	}
	content := get(find(t, all, "ConfigMap", "flytftp-files"), "data").(object)
	for _, name := range []string{"boot.ipxe", "autoexec.ipxe"} {
		if content[name] != read(t, "../../files/"+name) {
			t.Errorf("%s is not that of files/", name)
		}
	}
}

// The overlays do what the page says that they are for.
func TestKubernetesOverlays(t *testing.T) {
	for use, check := range map[string]func(all []object) bool{
		"files of your own": func(all []object) bool {
			data := get(find(t, all, "ConfigMap", "flytftp-files"), "data").(object)
			return data["next.ipxe"] != nil && data["boot.ipxe"] != nil
		},
		"files from an image": func(all []object) bool {
			pod := get(find(t, all, "Deployment", "flytftp"), "spec", "template", "spec").(object)
			first := list(pod["initContainers"])
			return len(first) == 1 && first[0]["image"] == "registry.example.org/boot-files:v1" &&
				len(list(pod["volumes"])) == 1 && get(list(pod["volumes"])[0], "emptyDir") != nil && get(list(pod["volumes"])[0], "configMap") == nil
		},
		"files of the server's own image": func(all []object) bool {
			pod := get(find(t, all, "Deployment", "flytftp"), "spec", "template", "spec").(object)
			server := list(pod["containers"])[0]
			return server["image"] == "registry.example.org/flytftp:v1-boot" && pod["volumes"] == nil && server["volumeMounts"] == nil
		},
		"metrics for the Prometheus operator": func(all []object) bool {
			service, monitor := find(t, all, "Service", "flytftp-metrics"), find(t, all, "ServiceMonitor", "flytftp")
			wanted := get(monitor, "spec", "selector", "matchLabels").(object)
			for label, value := range wanted {
				if get(service, "metadata", "labels", label) != value {
					return false
				}
			}
			server := list(get(find(t, all, "Deployment", "flytftp"), "spec", "template", "spec", "containers"))[0]
			port, endpoint := list(get(service, "spec", "ports"))[0], list(get(monitor, "spec", "endpoints"))[0]
			return port["targetPort"] == list(server["ports"])[1]["name"] && endpoint["port"] == port["name"] && endpoint["path"] == "/metrics" &&
				get(service, "metadata", "labels", get(monitor, "spec", "jobLabel").(string)) == "flytftp"
		},
	} {
		kustomization, shown := overlays(t)[use]
		if !shown {
			t.Fatalf("the page does not show %q", use)
		}
		if !check(objects(t, build(t, kustomization))) {
			t.Errorf("%q does not do it:\n%s", use, build(t, kustomization))
		}
		if !bytes.Contains([]byte(kustomization), []byte("../flytftp/deploy/kubernetes/")) {
			t.Errorf("%q is not beside a clone", use)
		}
	}
}
