"""What nobody approved is an installation's first version alone, once for each tenant."""

from __future__ import annotations

from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("identity", "0003_tenant_default_data_class"),
        ("residency", "0006_keys"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddConstraint(
            model_name="baselinepolicy",
            constraint=models.UniqueConstraint(
                condition=models.Q(("bootstrap", True)), fields=("bootstrap",), name="baseline_bootstrap_once"
            ),
        ),
        migrations.AddConstraint(
            model_name="baselinepolicy",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("bootstrap", False),
                    models.Q(("compared_version", 0), ("created_by__isnull", True), ("requested_by__isnull", True)),
                    _connector="OR",
                ),
                name="baseline_bootstrap_by_nobody_over_nothing",
            ),
        ),
        migrations.AddConstraint(
            model_name="policy",
            constraint=models.UniqueConstraint(
                condition=models.Q(("bootstrap", True)), fields=("tenant",), name="policy_bootstrap_once_a_tenant"
            ),
        ),
        migrations.AddConstraint(
            model_name="policy",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("bootstrap", False),
                    models.Q(("compared_version", 0), ("created_by__isnull", True), ("requested_by__isnull", True)),
                    _connector="OR",
                ),
                name="policy_bootstrap_by_nobody_over_nothing",
            ),
        ),
    ]
