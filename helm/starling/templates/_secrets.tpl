{{/* The settings that are secret: which Secret holds each, and what the chart's own two hold. */}}

{{/* Where a secret setting is read from, as a secretKeyRef; empty where it is not set. Takes (list ROOT NAME). */}}
{{- define "starling.secretReference" -}}
{{- $root := index . 0 -}}
{{- $secret := get $root.Values.secrets (index . 1) -}}
{{- if $secret.existingSecret -}}
name: {{ $secret.existingSecret }}
key: {{ $secret.key }}
{{- else if $secret.value -}}
name: {{ include "starling.fullname" $root }}-values
key: {{ include "starling.givenKey" $secret }}
{{- else if include "starling.isGenerated" . -}}
name: {{ include "starling.fullname" $root }}
key: {{ $secret.key }}
{{- end -}}
{{- end -}}

{{/* The key of a given value: another value has another key, so that each revision of the pods finds its own. */}}
{{- define "starling.givenKey" -}}
{{- printf "%s.%s" .key (.value | sha256sum | trunc 10) -}}
{{- end -}}

{{/* "true" where the chart generates a secret: where the values say so, and (generate: null) for a first try, where
     nothing else checks tokens. Takes (list ROOT NAME). */}}
{{- define "starling.isGenerated" -}}
{{- $root := index . 0 -}}
{{- $secret := get $root.Values.secrets (index . 1) -}}
{{- if and (has (index . 1) (list "tokenHmacSecret" "apiKeys")) (not (or $secret.existingSecret $secret.value)) -}}
{{- if kindIs "invalid" $secret.generate -}}
{{- if and (eq (include "starling.isTrial" $root) "true") (not (include "starling.mayComeFromOutside" (list $root (include "starling.variable" (index . 1))))) -}}true{{- end -}}
{{- else if $secret.generate -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* "true" where the values bring nothing that tokens are checked with, and do not turn off that the chart generates it. */}}
{{- define "starling.isTrial" -}}
{{- $secret := .Values.secrets.tokenHmacSecret -}}
{{- $settings := .Values.settings -}}
{{- $given := or $secret.existingSecret $secret.value $settings.tokenPublicKey $settings.tokenJwksUrl $settings.dev -}}
{{- if and (kindIs "invalid" $secret.generate) (not $given) (not (include "starling.tokenKeyFromOutside" .)) -}}true{{- end -}}
{{- end -}}

{{/* "true" where extraEnv or extraEnvFrom may bring what tokens are checked with. */}}
{{- define "starling.tokenKeyFromOutside" -}}
{{- $root := . -}}
{{- range list "STARLING_TOKEN_HMAC_SECRET" "STARLING_TOKEN_PUBLIC_KEY" "STARLING_TOKEN_JWKS_URL" "STARLING_DEV" -}}
{{- include "starling.mayComeFromOutside" (list $root .) -}}
{{- end -}}
{{- end -}}

{{/* "true" where extraEnv or extraEnvFrom may bring a setting. Takes (list ROOT VARIABLE). */}}
{{- define "starling.mayComeFromOutside" -}}
{{- $root := index . 0 -}}
{{- $variable := index . 1 -}}
{{- if $root.Values.extraEnvFrom -}}true{{- end -}}
{{- range $root.Values.extraEnv -}}
{{- if has .name (list $variable (print $variable "_FILE")) -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* The data of a Secret in the cluster, as a YAML map; empty where it is not there. Takes (list ROOT NAME). */}}
{{- define "starling.liveSecret" -}}
{{- $root := index . 0 -}}
{{- $live := lookup "v1" "Secret" (include "starling.namespace" $root) (index . 1) -}}
{{- $data := dict -}}
{{- if $live }}{{ $data = default dict $live.data }}{{ end -}}
{{- toYaml $data -}}
{{- end -}}
