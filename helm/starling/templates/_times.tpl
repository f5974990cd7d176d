{{/* The times of a pod's stop, which must fit into one another, and the numbers of pods that multiply them. */}}

{{/* The maximum of connections of a pod; 0 where only its open files limit them. */}}
{{- define "starling.capacity" -}}
{{- mul (default 0 .Values.settings.maxConnections | int) (default 1 .Values.settings.workers | int) -}}
{{- end -}}

{{/* Seconds within which a pod drains: as set, else what a full pod takes at the drain rate, 20 to 3600. */}}
{{- define "starling.drainSeconds" -}}
{{- if kindIs "invalid" .Values.settings.drainSeconds -}}
{{- $rate := .Values.settings.drainRate | float64 -}}
{{- $atRate := 0 -}}
{{- if gt $rate 0.0 }}{{ $atRate = divf (include "starling.capacity" . | int) $rate | ceil | int }}{{ end -}}
{{- min 3600 (max 20 $atRate) -}}
{{- else -}}
{{- .Values.settings.drainSeconds -}}
{{- end -}}
{{- end -}}

{{/* Seconds within which gunicorn is done: the delay, the drain, and 15 for closing. The application computes the same. */}}
{{- define "starling.gracefulTimeout" -}}
{{- add (addf .Values.settings.drainDelaySeconds (include "starling.drainSeconds" . | float64) | ceil | int) 15 -}}
{{- end -}}

{{/* How long a drain may last without an alert: `for` of the rules file (minutes), or a minute beyond gunicorn's end. */}}
{{- define "starling.drainOverdue" -}}
{{- $root := index . 0 -}}
{{- $for := index . 1 -}}
{{- $seconds := add (include "starling.gracefulTimeout" $root | int) 60 -}}
{{- if gt $seconds (mul 60 (trimSuffix "m" $for | int)) }}{{ $seconds }}s{{ else }}{{ $for }}{{ end -}}
{{- end -}}

{{/* Seconds of a pod's end that are enough: those that a preStop hook sleeps, gunicorn's and 20 more. */}}
{{- define "starling.sufficientGrace" -}}
{{- $hook := default dict .Values.lifecycle.preStop -}}
{{- add (include "starling.gracefulTimeout" . | int) 20 (default dict $hook.sleep).seconds -}}
{{- end -}}

{{- define "starling.grace" -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- include "starling.sufficientGrace" . -}}
{{- else -}}
{{- .Values.terminationGracePeriodSeconds | int -}}
{{- end -}}
{{- end -}}

{{- define "starling.fewestPods" -}}
{{- ternary .Values.autoscaling.minReplicas .Values.replicaCount (eq (include "starling.autoscaled" .) "true") | int -}}
{{- end -}}

{{- define "starling.mostPods" -}}
{{- ternary .Values.autoscaling.maxReplicas .Values.replicaCount (eq (include "starling.autoscaled" .) "true") | int -}}
{{- end -}}

{{/* Seconds that a rolling update takes if every pod needs its whole grace, one after the other. */}}
{{- define "starling.slowestRollout" -}}
{{- mul (include "starling.mostPods" . | int) (add (include "starling.grace" . | int) (int .Values.minReadySeconds)) -}}
{{- end -}}

{{- define "starling.progressDeadline" -}}
{{- if kindIs "invalid" .Values.progressDeadlineSeconds -}}
{{- max 600 (add (include "starling.slowestRollout" . | int) 120) -}}
{{- else -}}
{{- .Values.progressDeadlineSeconds | int -}}
{{- end -}}
{{- end -}}

{{/* Connections that a pod should hold: as set, else 70 % of what its workers may hold; empty where neither is known. */}}
{{- define "starling.targetConnections" -}}
{{- if .Values.autoscaling.targetConnections -}}
{{- .Values.autoscaling.targetConnections | int -}}
{{- else if .Values.settings.maxConnections -}}
{{- max 1 (div (mul (include "starling.capacity" . | int) 7) 10) -}}
{{- end -}}
{{- end -}}
