{{/* The settings of Starling as environment variables. */}}

{{/* The environment variable of a value: drainSeconds is STARLING_DRAIN_SECONDS. */}}
{{- define "starling.variable" -}}
STARLING_{{ . | snakecase | upper }}
{{- end -}}

{{/* The whole environment of the server. A variable of extraEnv replaces the chart's own of that name, in its place; one
     that names a file (NAME_FILE) replaces NAME. A name is never there twice: a cluster would refuse it. */}}
{{- define "starling.environment" -}}
{{- $given := dict -}}
{{- range .Values.extraEnv }}{{ $_ := set $given .name . }}{{ end -}}
{{- $environment := list -}}
{{- range include "starling.ownEnvironment" . | fromYamlArray -}}
{{- if hasKey $given .name -}}
{{- $environment = append $environment (get $given .name) -}}
{{- $_ := unset $given .name -}}
{{- else if not (hasKey $given (print .name "_FILE")) -}}
{{- $environment = append $environment . -}}
{{- end -}}
{{- end -}}
{{- range .Values.extraEnv }}{{ if hasKey $given .name }}{{ $environment = append $environment . }}{{ end }}{{ end -}}
{{- toYaml $environment -}}
{{- end -}}

{{/* The variables that the chart sets by itself. */}}
{{- define "starling.ownEnvironment" -}}
{{- $root := . -}}
{{- range $name, $value := .Values.settings }}
{{- if not (kindIs "invalid" $value) }}
- name: {{ include "starling.variable" $name }}
{{- if kindIs "slice" $value }}
  value: {{ join "," $value | quote }}
{{- else if kindIs "string" $value }}
  value: {{ $value | quote }}
{{- else }}
  value: {{ $value | toJson | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- if kindIs "invalid" .Values.settings.drainSeconds }}
- name: STARLING_DRAIN_SECONDS
  value: {{ include "starling.drainSeconds" . | quote }}
{{- end }}
{{- if .Values.channels }}
- name: STARLING_CHANNELS_FILE
  value: /etc/starling/channels/channels.yaml
{{- end }}
{{- if .Values.brokerCa.existingSecret }}
- name: STARLING_BROKER_CA_FILE
  value: /etc/starling/broker-ca/{{ .Values.brokerCa.key }}
{{- end }}
{{- if .Values.brokerClientCert.existingSecret }}
- name: STARLING_BROKER_CERT_FILE
  value: /etc/starling/broker-client-cert/tls.crt
- name: STARLING_BROKER_KEY_FILE
  value: /etc/starling/broker-client-cert/tls.key
{{- end }}
{{- if .Values.redis.enabled }}
- name: STARLING_BROKER_URL
  value: redis://{{ include "starling.fullname" . }}-redis:6379/0
{{- end }}
{{- range $name, $secret := .Values.secrets }}
{{- $reference := include "starling.secretReference" (list $root $name) }}
{{- with $reference }}
- name: {{ include "starling.variable" $name }}
  valueFrom:
    secretKeyRef:
      {{- . | nindent 6 }}
{{- end }}
{{- end }}
{{- if .Values.tracing.enabled }}
{{- include "starling.tracing" . }}
{{- end }}
{{- end -}}

{{/* What turns tracing on, and what OpenTelemetry's SDK reads by itself. */}}
{{- define "starling.tracing" -}}
{{- $name := include "starling.fullname" . -}}
{{- $variables := dict
  "OTEL_SERVICE_NAME" $name
  "OTEL_RESOURCE_ATTRIBUTES" (printf "k8s.namespace.name=%s,k8s.deployment.name=%s,k8s.pod.name=$(POD_NAME)" (include "starling.namespace" .) $name)
  "OTEL_TRACES_SAMPLER" "parentbased_traceidratio"
  "OTEL_TRACES_SAMPLER_ARG" .Values.tracing.sampleRatio -}}
{{- with .Values.tracing.endpoint }}{{ $_ := set $variables "OTEL_EXPORTER_OTLP_ENDPOINT" . }}{{ end }}
- name: STARLING_TRACING
  value: "true"
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- range $variable, $value := mustMergeOverwrite $variables .Values.tracing.env }}
- name: {{ $variable }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end -}}

{{/* The port that spans go to. */}}
{{- define "starling.collectorPort" -}}
{{- $address := urlParse .Values.tracing.endpoint -}}
{{- regexFind ":[0-9]+$" $address.host | trimPrefix ":" | default (ternary "443" "80" (eq $address.scheme "https")) -}}
{{- end -}}
