package check

import (
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/schema"
	"sigs.k8s.io/yaml"
)

const composeFile = "../compose/compose.yaml"

func parseCompose(t *testing.T, text string) object {
	t.Helper()
	var project object
	must(t, yaml.Unmarshal([]byte(text), &project))
	return project
}

func TestCompose(t *testing.T) {
	text := read(t, composeFile)
	project := parseCompose(t, text)
	must(t, schema.Validate(project))
	for from, to := range map[string]string{
		"read_only: true":   "readonly: true",
		"cap_drop: [ALL]":   "cap_drop: ALL",
		"restart: unless-s": "restart: [unless-s",
	} {
		broken := strings.Replace(text, from, to, 1)
		if broken == text {
			t.Fatalf("there is no %q", from)
		}
		var parsed object
		if yaml.Unmarshal([]byte(broken), &parsed) == nil && schema.Validate(parsed) == nil {
			t.Errorf("%q passes", to)
		}
	}
	profiles := map[string]string{}
	for name, service := range get(project, "services").(object) {
		profile, _ := get(service, "profiles").([]any)
		if len(profile) != 1 {
			t.Fatalf("%s has the profiles %v", name, profile)
		}
		profiles[profile[0].(string)] = name
		security, _ := get(service, "security_opt").([]any)
		dropped, _ := get(service, "cap_drop").([]any)
		if get(service, "read_only") != true || len(security) != 1 || security[0] != "no-new-privileges:true" || len(dropped) != 1 || dropped[0] != "ALL" {
			t.Errorf("%s is not confined", name)
		}
	}
	for _, profile := range []string{"published", "host", "prometheus", "host-prometheus"} {
		if profiles[profile] == "" {
			t.Errorf("no service has the profile %s", profile)
		}
	}
	published := get(project, "services", profiles["published"]).(object)
	if published["user"] != "65532:65532" || published["cap_add"] != nil {
		t.Error("the server with a published port is privileged")
	}
}
