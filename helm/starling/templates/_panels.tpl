{{/* The address of an alert's panel in Grafana, for this release. Takes (list ROOT ANNOTATIONS). */}}
{{- define "starling.panelUrl" -}}
{{- $root := index . 0 -}}
{{- $wanted := index . 1 -}}
{{- range $path, $_ := $root.Files.Glob "dashboards/*.json" -}}
{{- $dashboard := $root.Files.Get $path | fromJson -}}
{{- if eq $dashboard.uid $wanted.dashboard -}}
{{- range $panel := $dashboard.panels -}}
{{- range $each := prepend (default list $panel.panels) $panel -}}
{{- if and (eq $each.title $wanted.panel) (ne $each.type "row") -}}
{{- printf "%s/d/%s?viewPanel=%d&var-namespace=%s&var-job=%s" (trimSuffix "/" $root.Values.prometheusRule.grafanaUrl) $dashboard.uid (int $each.id) (include "starling.namespace" $root) (include "starling.fullname" $root) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
