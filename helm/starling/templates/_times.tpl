{{/* The times of a pod's end, which must fit into one another, and the numbers of pods that they are multiplied by. */}}

{{/* Seconds within which gunicorn is done: the delay, the drain, and 15 for closing. The application computes the same. */}}
{{- define "starling.gracefulTimeout" -}}
{{- add (addf .Values.settings.drainDelaySeconds .Values.settings.drainSeconds | ceil | int) 15 -}}
{{- end -}}

{{/* Seconds from SIGTERM to SIGKILL that are enough: gunicorn's and 20 more. */}}
{{- define "starling.sufficientGrace" -}}
{{- add (include "starling.gracefulTimeout" . | int) 20 -}}
{{- end -}}

{{- define "starling.grace" -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- include "starling.sufficientGrace" . -}}
{{- else -}}
{{- .Values.terminationGracePeriodSeconds | int -}}
{{- end -}}
{{- end -}}

{{- define "starling.fewestPods" -}}
{{- ternary .Values.autoscaling.minReplicas .Values.replicaCount .Values.autoscaling.enabled | int -}}
{{- end -}}

{{- define "starling.mostPods" -}}
{{- ternary .Values.autoscaling.maxReplicas .Values.replicaCount .Values.autoscaling.enabled | int -}}
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
{{- $workers := default 1 .Values.settings.workers | int -}}
{{- if .Values.autoscaling.targetConnections -}}
{{- .Values.autoscaling.targetConnections | int -}}
{{- else if .Values.settings.maxConnections -}}
{{- max 1 (div (mul (int .Values.settings.maxConnections) $workers 7) 10) -}}
{{- end -}}
{{- end -}}
