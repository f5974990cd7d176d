{{/* What the Ingress, the HTTPRoute and the Certificate share. */}}

{{/* Rules of the HTTPRoute: those of the values, else one of matches, filters and timeouts. A rule without backendRefs
     leads to the public Service, unless it redirects. */}}
{{- define "starling.routeRules" -}}
{{- $route := .Values.httpRoute -}}
{{- $single := dict "matches" $route.matches -}}
{{- with $route.filters }}{{ $_ := set $single "filters" . }}{{ end -}}
{{- with $route.timeouts }}{{ $_ := set $single "timeouts" . }}{{ end -}}
{{- $service := list (dict "name" (include "starling.fullname" .) "port" (int .Values.service.port)) -}}
{{- $rules := list -}}
{{- range default (list $single) $route.rules -}}
{{- $rule := deepCopy . -}}
{{- $redirects := false -}}
{{- range $rule.filters }}{{ if eq .type "RequestRedirect" }}{{ $redirects = true }}{{ end }}{{ end -}}
{{- if not (or $redirects (hasKey $rule "backendRefs")) }}{{ $_ := set $rule "backendRefs" $service }}{{ end -}}
{{- $rules = append $rules $rule -}}
{{- end -}}
{{- toYaml $rules -}}
{{- end -}}

{{- define "starling.certificateSecret" -}}
{{- default (print (include "starling.fullname" .) "-tls") .Values.certificate.secretName -}}
{{- end -}}

{{/* Names in the certificate: those of the values, else all hosts that the Ingress and the HTTPRoute serve. */}}
{{- define "starling.certificateNames" -}}
{{- $names := .Values.certificate.dnsNames -}}
{{- if not $names -}}
{{- if .Values.ingress.enabled }}{{ range .Values.ingress.hosts }}{{ $names = append $names .host }}{{ end }}{{ end -}}
{{- if .Values.httpRoute.enabled }}{{ $names = concat $names .Values.httpRoute.hostnames }}{{ end -}}
{{- end -}}
{{- uniq $names | toYaml -}}
{{- end -}}
