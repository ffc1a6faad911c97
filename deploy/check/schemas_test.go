package check

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// The sources of the schemas, Go modules under the Apache License 2.0.
const (
	kubernetes = "k8s.io/kubernetes@v1.37.2"
	operator   = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
)

var update = flag.Bool("update", false, "make the schemas in testdata anew from the modules that define the kinds")

// definitions are the files of the modules that define the kinds, and the names of these there.
var definitions = []struct{ kind, file, name string }{
	{"deployment", "apis__apps__v1", "io.k8s.api.apps.v1.Deployment"},
	{"service", "api__v1", "io.k8s.api.core.v1.Service"},
	{"configmap", "api__v1", "io.k8s.api.core.v1.ConfigMap"},
	{"poddisruptionbudget", "apis__policy__v1", "io.k8s.api.policy.v1.PodDisruptionBudget"},
}

// TestSchemas holds that the schemas are there. With -update it makes them.
func TestSchemas(t *testing.T) {
	if *update {
		folder := download(t, kubernetes)
		for _, d := range definitions {
			var api object
			must(t, json.Unmarshal([]byte(read(t, filepath.Join(folder, "api/openapi-spec/v3", d.file+"_openapi.json"))), &api))
			write(t, d.kind, trim(get(api, "components", "schemas").(object), d.name))
		}
		var crd object
		must(t, yaml.Unmarshal([]byte(read(t, filepath.Join(download(t, operator),
			"example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml"))), &crd))
		write(t, "servicemonitor", plain(get(list(get(crd, "spec", "versions"))[0], "schema", "openAPIV3Schema"), nil).(object))
	}
	for _, kind := range []string{"deployment", "service", "configmap", "poddisruptionbudget", "servicemonitor"} {
		if strings.Count(read(t, "testdata/schemas/"+kind+".json"), `"additionalProperties":false`) == 0 {
			t.Errorf("the schema of %s lets everything pass", kind)
		}
	}
}

// download returns the folder of a module.
func download(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.Command("go", "mod", "download", "-json", module).Output()
	must(t, err)
	var answer struct{ Dir string }
	must(t, json.Unmarshal(out, &answer))
	return answer.Dir
}

func write(t *testing.T, kind string, schema object) {
	t.Helper()
	text, err := json.Marshal(schema)
	must(t, err)
	must(t, os.WriteFile("testdata/schemas/"+kind+".json", append(text, '\n'), 0o644))
}

const references = "#/components/schemas/"

// trim returns the schema of one kind, with all that it refers to and nothing else.
func trim(schemas object, name string) object {
	wanted := map[string]bool{name: true}
	kept := object{}
	for len(kept) < len(wanted) {
		for _, name := range slices.Collect(maps.Keys(wanted)) {
			if kept[name] == nil {
				kept[name] = plain(schemas[name], func(name string) { wanted[name] = true })
			}
		}
	}
	root := kept[name].(object)
	delete(kept, name)
	root["definitions"] = kept
	return root
}

// plain makes JSON schema of the schema of an API: without its prose, and strict about names.
// refer is told of each schema that it refers to.
func plain(schema any, refer func(name string)) any {
	switch s := schema.(type) {
	case []any:
		items := make([]any, 0, len(s))
		for _, item := range s {
			items = append(items, plain(item, refer))
		}
		return items
	case object:
		if s["x-kubernetes-int-or-string"] == true {
			return object{"type": []any{"integer", "string"}}
		}
		out := object{}
		for key, value := range s {
			switch _, isText := value.(string); {
			case key == "$ref":
				name := strings.TrimPrefix(value.(string), references)
				refer(name)
				out[key] = "#/definitions/" + name
			case key == "properties":
				properties := object{}
				for name, property := range value.(object) {
					properties[name] = plain(property, refer)
				}
				out[key], out["additionalProperties"] = properties, false
			case key == "description" && isText, key == "default", key == "format", strings.HasPrefix(key, "x-kubernetes-"):
			default:
				out[key] = plain(value, refer)
			}
		}
		return out
	}
	return schema
}
