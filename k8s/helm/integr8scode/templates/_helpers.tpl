{{/* Labels of an object of the chart; k8s/setup.sh tells by `helm.sh/chart` that a release has it. */}}
{{- define "integr8scode.labels" -}}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* The reference of an image: (dict "top" $ "name" "gateway"). */}}
{{- define "integr8scode.image" -}}
{{- $images := .top.Values.images -}}
{{- get $images .name | default (printf "%s/%s:%s" $images.registry .name ($images.tag | default .top.Chart.AppVersion)) -}}
{{- end }}

{{/* The relay by its own loader, as in gateway/backends/kubernetes/names.py, up to the interpreter. */}}
{{- define "integr8scode.relayPython" -}}
- /opt/relay/bin/ld.so
- --library-path
- /opt/relay/lib
- /opt/relay/bin/python3
- -I
- -S
{{- end }}

{{/* Hardened as executors are. */}}
{{- define "integr8scode.podSecurity" -}}
runAsUser: 1000
runAsGroup: 1000
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "integr8scode.containerSecurity" -}}
{{ include "integr8scode.podSecurity" . }}
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
privileged: false
capabilities:
  drop: [ALL]
{{- end }}

{{- define "integr8scode.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The secret that has the token. */}}
{{- define "integr8scode.tokenSecret" -}}
{{- .Values.token.existingSecret | default "gateway-token" -}}
{{- end }}

{{/* The gateway's configuration, as JSON. */}}
{{- define "integr8scode.config" -}}
{{- $namespace := .Release.Namespace -}}
{{- $hosts := list "gateway" (printf "gateway.%s" $namespace) (printf "gateway.%s.svc" $namespace) (printf "gateway.%s.svc.cluster.local" $namespace) -}}
{{- if .Values.ingress.enabled -}}
{{- $hosts = append $hosts .Values.ingress.host -}}
{{- end -}}
{{- $own := dict
  "JupyterGateway" (dict
    "ip" ""
    "port" 8888
    "port_retries" 0
    "backend" "kubernetes"
    "token_file" "/etc/jupyter-gateway/token/token")
  "KernelSpecs" (dict "files" "/etc/jupyter-gateway/kernelspecs")
  "WebOptions" (dict "allowed_hosts" (concat $hosts (dig "WebOptions" "allowed_hosts" list .Values.config)))
  "KubernetesBackend" (dict
    "namespace" .Values.executors.namespace
    "instance" .Values.executors.instance
    "canary" (printf "%s/canary" $namespace)
    "image" (include "integr8scode.image" (dict "top" . "name" "executor"))
    "relay_image" (include "integr8scode.image" (dict "top" . "name" "relay"))
    "image_pull_policy" .Values.images.pullPolicy) -}}
{{- mergeOverwrite (deepCopy .Values.config) $own | toPrettyJson -}}
{{- end }}
