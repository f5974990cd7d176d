{{/* Parts of the server's pod, and what all pods of the chart share. */}}

{{/* Annotations of the server's pods. The channels file is one of them, so that every revision has its own. */}}
{{- define "starling.podAnnotations" -}}
{{- $annotations := dict "kubectl.kubernetes.io/default-container" "starling" -}}
{{- with .Values.channels }}{{ $_ := set $annotations "starling/channels" (toYaml .) }}{{ end -}}
{{- merge $annotations (deepCopy .Values.podAnnotations) (deepCopy .Values.commonAnnotations) | toYaml -}}
{{- end -}}

{{/* Where a pod may run, and how it resolves names. Takes (list ROOT AFFINITY). */}}
{{- define "starling.scheduling" -}}
{{- $values := (index . 0).Values -}}
{{- range $name, $value := dict
  "affinity" (index . 1)
  "nodeSelector" $values.nodeSelector
  "tolerations" $values.tolerations
  "priorityClassName" $values.priorityClassName
  "runtimeClassName" $values.runtimeClassName
  "schedulerName" $values.schedulerName
  "hostAliases" $values.hostAliases
  "dnsConfig" $values.dnsConfig }}
{{- with $value }}
{{ dict $name . | toYaml }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "starling.serverContainer" -}}
- name: starling
  image: {{ include "starling.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [starling, serve]
  env:
    {{- include "starling.environment" . | trim | nindent 4 }}
  {{- with .Values.extraEnvFrom }}
  envFrom:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - name: public
      containerPort: {{ .Values.settings.port }}
      protocol: TCP
    - name: internal
      containerPort: {{ .Values.settings.internalPort }}
      protocol: TCP
  {{- with .Values.lifecycle }}
  lifecycle:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  startupProbe:
    httpGet:
      path: /startupz
      port: internal
    {{- toYaml .Values.startupProbe | nindent 4 }}
  livenessProbe:
    httpGet:
      path: /livez
      port: internal
    {{- toYaml .Values.livenessProbe | nindent 4 }}
  readinessProbe:
    httpGet:
      path: /readyz
      port: internal
    {{- toYaml .Values.readinessProbe | nindent 4 }}
  {{- with .Values.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.securityContext | nindent 4 }}
  volumeMounts:
    - name: runtime
      mountPath: {{ .Values.settings.runtimeDir }}
    - name: tmp
      mountPath: /tmp
    {{- if .Values.channels }}
    - name: channels
      mountPath: /etc/starling/channels
      readOnly: true
    {{- end }}
    {{- if .Values.brokerCa.existingSecret }}
    - name: broker-ca
      mountPath: /etc/starling/broker-ca
      readOnly: true
    {{- end }}
    {{- if .Values.brokerClientCert.existingSecret }}
    - name: broker-client-cert
      mountPath: /etc/starling/broker-client-cert
      readOnly: true
    {{- end }}
    {{- with .Values.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{- define "starling.volumes" -}}
- name: runtime
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.runtimeVolume.sizeLimit }}
- name: tmp
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.tmpVolume.sizeLimit }}
{{- if .Values.channels }}
- name: channels
  downwardAPI:
    items:
      - path: channels.yaml
        fieldRef:
          fieldPath: metadata.annotations['starling/channels']
{{- end }}
{{- with .Values.brokerCa.existingSecret }}
- name: broker-ca
  secret:
    secretName: {{ . }}
{{- end }}
{{- with .Values.brokerClientCert.existingSecret }}
- name: broker-client-cert
  secret:
    secretName: {{ . }}
{{- end }}
{{- end -}}

{{/* Pods of one revision spread over zones and nodes; a preference, so that a small cluster still gets them all. */}}
{{- define "starling.spread" -}}
{{- if kindIs "invalid" .Values.topologySpreadConstraints -}}
{{- $root := . -}}
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "starling.selectorLabels" (list $root "server") | nindent 6 }}
  matchLabelKeys: [pod-template-hash]
{{- end }}
{{- else -}}
{{- toYaml .Values.topologySpreadConstraints -}}
{{- end -}}
{{- end -}}
