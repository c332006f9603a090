{{/* What more than one template needs. Names are the same in every cluster: there is one RuntimeClass `wasm`, so one release. */}}

{{- define "wasm.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{/* The installer's pods: never changes, since a DaemonSet's selector cannot. */}}
{{- define "wasm.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: installer
{{- end -}}

{{- define "wasm.image" -}}
{{- with .Values.image -}}
{{ .registry }}/containerd-shim-wasm-node{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end -}}

{{- define "wasm.pullSecrets" -}}
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end -}}

{{/* Nodes that the image has programs for. */}}
{{- define "wasm.architectures" -}}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      - matchExpressions:
          - key: kubernetes.io/arch
            operator: In
            values: [amd64, arm64]
{{- end -}}

{{/* A container that may do nothing but what its user may. */}}
{{- define "wasm.confined" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Where a release puts things on nodes, as annotations of its DaemonSet: an upgrade may not change them. */}}
{{- define "wasm.places" -}}
io.containerd.wasm.v1/containerd.config: {{ .Values.containerd.config }}
io.containerd.wasm.v1/installDir: {{ .Values.installDir }}
{{- end -}}

{{/* For what the uninstall job needs: made before it, and gone when it has ended either way. */}}
{{- define "wasm.beforeUninstall" -}}
helm.sh/hook: pre-delete
helm.sh/hook-weight: "-1"
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}
