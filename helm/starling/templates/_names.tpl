{{/* Names, namespace, labels and metadata of every object. */}}

{{- define "starling.name" -}}
{{- include "starling.short" (default .Chart.Name .Values.nameOverride) -}}
{{- end -}}

{{/* A name short enough for the longest suffix, "-dashboards", within 63 characters, and without dots, which a Service
     may not have. A longer one ends in its hash, so that two long names never become one. */}}
{{- define "starling.short" -}}
{{- $name := replace "." "-" . -}}
{{- if gt (len $name) 50 -}}
{{- printf "%s-%s" ($name | trunc 41 | trimSuffix "-") (. | sha256sum | trunc 8) -}}
{{- else -}}
{{- $name | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "starling.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- include "starling.short" .Values.fullnameOverride -}}
{{- else if contains (include "starling.name" .) .Release.Name -}}
{{- include "starling.short" .Release.Name -}}
{{- else -}}
{{- include "starling.short" (printf "%s-%s" .Release.Name (include "starling.name" .)) -}}
{{- end -}}
{{- end -}}

{{- define "starling.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- define "starling.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "starling.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* An image by digest where there is one, else by tag. Takes a map with repository, digest and tag. */}}
{{- define "starling.imageOf" -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository .tag -}}
{{- end -}}
{{- end -}}

{{- define "starling.image" -}}
{{- $image := .Values.image -}}
{{- include "starling.imageOf" (dict "repository" $image.repository "digest" $image.digest "tag" (default .Chart.AppVersion $image.tag)) -}}
{{- end -}}

{{/* What a Service or a Deployment selects by: never anything that changes with a version. Takes (list ROOT COMPONENT). */}}
{{- define "starling.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "starling.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of an object; those that selectors use win over all others. Takes (list ROOT COMPONENT [MORE-LABELS]). */}}
{{- define "starling.labels" -}}
{{- $root := index . 0 -}}
{{- $labels := dict
  "app.kubernetes.io/version" $root.Chart.AppVersion
  "app.kubernetes.io/part-of" "starling"
  "app.kubernetes.io/managed-by" $root.Release.Service
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- $more := dict -}}
{{- if gt (len .) 2 }}{{ $more = default dict (index . 2) }}{{ end -}}
{{- $selected := include "starling.selectorLabels" (list $root (index . 1)) | fromYaml -}}
{{- merge $selected $labels (deepCopy $more) (deepCopy $root.Values.commonLabels) | toYaml -}}
{{- end -}}

{{/* The metadata of an object. Takes a map: root, component, and optionally name or suffix (of the usual name), labels,
     annotations. */}}
{{- define "starling.metadata" -}}
{{- $root := .root -}}
name: {{ default (print (include "starling.fullname" $root) (default "" .suffix)) .name }}
namespace: {{ include "starling.namespace" $root }}
labels:
  {{- include "starling.labels" (list $root .component .labels) | nindent 2 }}
{{- with merge (deepCopy (default dict .annotations)) (deepCopy $root.Values.commonAnnotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
