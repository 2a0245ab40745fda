#include "plots/charts/chart.h"

const struct chart *const kvp_charts[] = {
    &kvp_chart_memory,
    &kvp_chart_predicted_vs_measured,
    NULL,
};
