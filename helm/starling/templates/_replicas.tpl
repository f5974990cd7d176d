{{/* Who says how many pods there are: the values, or an autoscaler. */}}

{{/* "true" where an autoscaler chooses the number of pods. */}}
{{- define "starling.autoscaled" -}}
{{- if or .Values.autoscaling.enabled .Values.keda.enabled }}true{{ end -}}
{{- end -}}

{{/* The Deployment's annotation under which every revision since the installation left `replicas` to the autoscaler. */}}
{{- define "starling.replicasMark" -}}starling/replicas-by{{- end -}}

{{/* The Deployment's `replicas`; empty where an autoscaler has it. A field that a revision had and the next one has not
     is removed by Helm 3, and Kubernetes then runs one pod. So `replicas` stays away where it was never written (see the
     mark), and is written, as it is in the cluster, where it may have been: after autoscaling was switched on. */}}
{{- define "starling.replicas" -}}
{{- if include "starling.autoscaled" . -}}
{{- $live := lookup "apps/v1" "Deployment" (include "starling.namespace" .) (include "starling.fullname" .) -}}
{{- if $live -}}
{{- $annotations := default dict $live.metadata.annotations -}}
{{- if not (hasKey $annotations (include "starling.replicasMark" .)) -}}
{{- max (int $live.spec.replicas) (int .Values.autoscaling.minReplicas) -}}
{{- end -}}
{{- end -}}
{{- else -}}
{{- .Values.replicaCount -}}
{{- end -}}
{{- end -}}
